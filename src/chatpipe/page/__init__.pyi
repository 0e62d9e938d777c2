from .routes import page_router as page_router
