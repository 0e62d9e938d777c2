from .fetch import FetchDataset as FetchDataset
from .fetch import FetchModel as FetchModel
from .metadata import SourceMetadata as SourceMetadata
