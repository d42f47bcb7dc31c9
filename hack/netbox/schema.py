"""Makes NetBox's tables in an empty database, and an administrator with two API tokens, in seconds.

`netbox migrate` replays hundreds of migrations, which takes minutes. This makes the tables from the models, runs those operations of the
migrations that models do not have (extensions, collations and triggers), and records all migrations as applied. The result differs from
that of the migrations in the names of some indexes and in a few sample rows.

Environment: NETBOX_USER, NETBOX_PASSWORD, NETBOX_TOKEN (version 1) and NETBOX_V2_TOKEN (nbt_KEY.TOKEN), and that of netbox_configuration.
"""

import os

import django
from django.conf import settings
from django.core.management import call_command
from django.db import connection
from django.db.migrations.loader import MigrationLoader


class NoMigrations:
    """Stands for all applications in MIGRATION_MODULES: none has migrations."""

    def __contains__(self, application):
        return True

    def __getitem__(self, application):
        return None

    def get(self, application, default=None):
        return None


def operations():
    """Returns the operations of all migrations in dependency order, each with the label of its application."""
    graph = MigrationLoader(connection).graph
    migrations = {node: None for leaf in graph.leaf_nodes() for node in graph.forwards_plan(leaf)}
    return [(node[0], operation) for node in migrations for operation in graph.nodes[node].operations]


def run(*types):
    """Runs the operations of the named types."""
    for application, operation in operations():
        if type(operation).__name__ in types:
            with connection.schema_editor(atomic=True) as editor:
                operation.database_forwards(application, editor, None, None)


def make_tables():
    run('CreateExtension', 'CreateCollation')
    migrations = settings.MIGRATION_MODULES
    settings.MIGRATION_MODULES = NoMigrations()
    call_command('migrate', run_syncdb=True, interactive=False, verbosity=0)
    settings.MIGRATION_MODULES = migrations
    run('InstallDenormalizationTrigger', 'InstallLtreeTriggers', 'ReinstallLtreeTriggers')
    call_command('migrate', fake=True, interactive=False, verbosity=0)


def make_administrator():
    from users.models import Token, User

    user = User.objects.create_superuser(os.environ['NETBOX_USER'], password=os.environ['NETBOX_PASSWORD'])
    Token(version=1, user=user, token=os.environ['NETBOX_TOKEN']).save()
    key, token = os.environ['NETBOX_V2_TOKEN'].removeprefix('nbt_').split('.')
    Token(version=2, user=user, key=key, token=token).save()


os.environ['DJANGO_SETTINGS_MODULE'] = 'netbox.settings'
django.setup()
make_tables()
make_administrator()
