from .access import Access as Access
from .app import web_app as web_app
from .http_errors import RequestError as RequestError
from .listening import required_key as required_key
from .server import serve_until_signal as serve_until_signal
