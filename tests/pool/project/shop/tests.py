"""Run by tests/pool/test_schema.py through manage.py test."""

from django.db import connection
from django.test import TestCase, TransactionTestCase

from shop.models import Row


class Where:
    def where(self):
        with connection.cursor() as cursor:
            cursor.execute("SELECT DATABASE(), CONNECTION_ID()")
            return cursor.fetchone()

    def test_schema(self):
        name, number = self.where()
        print(f"RAN {type(self).__name__} {name} {connection.settings_dict['NAME']} {number}", flush=True)
        self.assertTrue(name.startswith("test_"), name)
        self.assertEqual(name, connection.settings_dict["NAME"])
        self.assertEqual(Row.objects.count(), 0)
        Row.objects.create(text="of a test")


class A(Where, TransactionTestCase):
    pass


class B(Where, TransactionTestCase):
    pass


class C(Where, TestCase):
    pass


class D(Where, TransactionTestCase):
    pass
