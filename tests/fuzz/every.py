"""All properties, in one place: importing the modules lists them."""

from tests.fuzz import call_properties, form_properties, mask_properties, value_properties
from tests.fuzz.properties import REGISTERED

MODULES = (value_properties, mask_properties, call_properties, form_properties)
PROPERTIES = tuple(REGISTERED.values())
