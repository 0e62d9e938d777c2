from .atomic_writes import write_atomically as write_atomically
from .file_digests import FileDigests as FileDigests
from .file_digests import file_digest as file_digest
from .redaction import redact as redact
from .visible_text import visible as visible
