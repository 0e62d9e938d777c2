from .catalog import DATASETS as DATASETS
from .folders import row_files as row_files
from .merge import Merge as Merge
from .normalize import Normalize as Normalize
from .normalize import RowAccount as RowAccount
from .reading import RowFile as RowFile
from .reading import read_rows as read_rows
