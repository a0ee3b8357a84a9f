"""What the mappings of the file are made of."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from routerx.config.scalars import Deadline


class Block(BaseModel):
    """A mapping of the file. `key:` with nothing behind it is the same as not writing the key."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, arbitrary_types_allowed=True)

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_the_default(cls, data: object) -> object:
        if data is None:
            return {}
        if isinstance(data, dict):
            return {key: value for key, value in data.items() if value is not None or key not in cls.model_fields}
        return data


class ShortBlock(Block):
    """A mapping that may also be written as the plain text of its first field."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, data: object) -> object:
        return {next(iter(cls.model_fields)): data} if isinstance(data, str) else data

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"type": "string"}, handler(schema)]}


class OverridesBlock(Block):
    """Deadlines in place of the provider's; what is left out stays as it is."""

    connect: Annotated[Deadline | None, Field(description="For the connection, TLS included.")] = None
    first_token: Annotated[Deadline | None, Field(description="For the first content.")] = None
    idle: Annotated[Deadline | None, Field(description="Longest silence within an answer.")] = None
    total: Annotated[Deadline | None, Field(description="For the whole request.")] = None
