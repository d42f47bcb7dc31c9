"""NetBox's WSGI application, which also serves the style sheets and scripts of its pages: a web server in front of it does that usually."""

from django.contrib.staticfiles.handlers import StaticFilesHandler
from netbox.wsgi import application as netbox

application = StaticFilesHandler(netbox)
