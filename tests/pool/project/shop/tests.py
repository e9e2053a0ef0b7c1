"""Run by tests/pool/test_schema.py through manage.py test."""

import os
import time
from pathlib import Path

from django.db import connection
from django.test import TestCase, TransactionTestCase

from shop.models import Row


class Where:
    def where(self):
        with connection.cursor() as cursor:
            cursor.execute("SELECT DATABASE(), CONNECTION_ID()")
            return cursor.fetchone()

    def meet(self):
        """A process that starts quickly does not run all tests before the next one is there."""
        here = Path(os.environ["SHOP_MEET"])
        (here / str(os.getpid())).touch()
        deadline = time.monotonic() + 60
        while len(list(here.iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)

    def test_schema(self):
        if "SHOP_MEET" in os.environ:
            self.meet()
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
