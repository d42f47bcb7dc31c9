"""The configuration of a NetBox of hack/netbox.sh. All parameters come from its environment."""

import os

_directory = os.environ['NETBOX_ROOT']
_redis = f'unix://{_directory}/redis.sock'

ALLOWED_HOSTS = ['127.0.0.1', 'localhost']
DATABASES = {
    'default': {
        'ENGINE': 'django.db.backends.postgresql',
        'NAME': 'netbox',
        'USER': 'netbox',
        'HOST': f'{_directory}/postgres', # the directory of its socket
        'CONN_MAX_AGE': 300,
    }
}
REDIS = {'tasks': {'URL': _redis, 'DATABASE': 0}, 'caching': {'URL': f'{_redis}?db=1'}}
SECRET_KEY = os.environ['NETBOX_SECRET']
API_TOKEN_PEPPERS = {1: os.environ['NETBOX_SECRET']}
# Both keep NetBox from connecting to the Internet.
CENSUS_REPORTING_ENABLED = False
ISOLATED_DEPLOYMENT = True
# NetBox's defaults, unless the environment has others.
RQ_RETRY_MAX = int(os.environ.get('NETBOX_RQ_RETRY_MAX', 0))
RQ_RETRY_INTERVAL = int(os.environ.get('NETBOX_RQ_RETRY_INTERVAL', 60))
