"""The recipe that a run's form names: a recipe of the package, YAML text, or an object in the store."""

from collections.abc import Mapping, Sequence
from typing import Any

from phasor.errors import RecipeError
from phasor.pipeline.plan import choose_roles
from phasor.project import recipe_names, recipe_text
from phasor.recipe import Recipe, parse_recipe
from phasor.settings import store_settings
from phasor.storage.store import Place, Store


def read_form(recipe: str, overrides: Sequence[str], roles: Sequence[str]) -> Recipe:
    """Resolve and check a recipe as the command line would.

    Args:
        recipe: a name, YAML text, or s3://BUCKET/KEY.
        overrides: `a.b=c`, as for --set.
        roles: the roles to train, of those that the recipe has.

    Raises:
        RecipeError: a value is wrong; the message is the command line's.
        StorageError: the object cannot be read.
    """
    return choose_roles(parse_recipe(_text(recipe), overrides, origin="recipe"), roles)


def check_form(overrides: Sequence[Any], data_rev: Mapping[str, Any]) -> None:
    """The form takes any JSON for a list or a mapping. Raises RecipeError for values that are no text."""
    for override in overrides:
        if not isinstance(override, str):
            raise RecipeError(f'overrides: {override!r} is no text. Write a list such as ["merge.search_steps=50"].')
    for path, digest in data_rev.items():
        if not isinstance(digest, str):
            raise RecipeError(f"data_rev: {path!r} has {digest!r}, which is no digest. Paste what `phasor data rev` prints.")


def _text(recipe: str) -> str:
    if recipe.startswith("s3://"):
        place = Place.parse(recipe)
        if not place.prefix:
            raise RecipeError(f"recipe: {recipe} names no object. Write s3://BUCKET/KEY.")
        try:
            return Store(store_settings()).read(Place(place.bucket, ""), place.prefix).decode("utf-8")
        except FileNotFoundError:
            raise RecipeError(f"recipe: {recipe} does not exist. Upload it, or paste its text.") from None
        except UnicodeDecodeError as error:
            raise RecipeError(f"recipe: {recipe} is no UTF-8 text ({error.reason}). Upload the YAML file.") from None
    if ":" in recipe:
        return recipe
    if recipe not in recipe_names():
        raise RecipeError(f"recipe: {recipe!r} is neither YAML text nor one of {', '.join(recipe_names())}.")
    return recipe_text(recipe)
