from sagefm.errors import *  # noqa
