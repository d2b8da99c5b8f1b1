"""What the API tells: one pydantic model for each thing, made from the frozen values that the use cases hold."""

from pydantic import BaseModel, ConfigDict


class View(BaseModel):
    """Something told to a client."""

    model_config = ConfigDict(frozen=True)
