import os

from django.apps import AppConfig


class ShopConfig(AppConfig):
    name = "shop"

    def ready(self):
        if os.environ.get("SHOP_EARLY"):  # what Django discourages, and people do
            from django.db import connection

            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
                cursor.fetchall()
            if os.environ["SHOP_EARLY"] == "close":
                connection.close()
        if os.environ.get("SHOP_CLONE_BY_SQL"):
            from django.db.backends.mysql.creation import DatabaseCreation

            DatabaseCreation._clone_db = clone_by_sql


def clone_by_sql(self, source, target):
    """Stands in for mysqldump, which a test machine may lack: what it copies is not what is tested."""
    with self._nodb_cursor() as cursor:
        cursor.execute(f"SHOW TABLES FROM `{source}`")
        for (table,) in cursor.fetchall():
            cursor.execute(f"CREATE TABLE `{target}`.`{table}` LIKE `{source}`.`{table}`")
            cursor.execute(f"INSERT INTO `{target}`.`{table}` SELECT * FROM `{source}`.`{table}`")
