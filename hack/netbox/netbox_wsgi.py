"""NetBox's WSGI application, which also serves its static files, as a web server before it would: without them, its pages have no style."""

from django.contrib.staticfiles.handlers import StaticFilesHandler
from netbox.wsgi import application as _netbox

application = StaticFilesHandler(_netbox)
