"""A test runner that writes each test's outcome to CONFORMANCE_RESULTS."""

import os
import unittest

from django.test.runner import DiscoverRunner


class Result(unittest.TextTestResult):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.out = open(os.environ["CONFORMANCE_RESULTS"], "a", buffering=1)  # noqa: SIM115 (for the whole run)

    def write(self, test, outcome):
        self.out.write(f"{test.id()}\t{outcome}\n".replace("\n\t", "\t"))

    def addSuccess(self, test):
        super().addSuccess(test)
        self.write(test, "ok")

    def addError(self, test, err):
        super().addError(test, err)
        self.write(test, "ERROR")

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.write(test, "FAIL")

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.write(test, "skipped")

    def addExpectedFailure(self, test, err):
        super().addExpectedFailure(test, err)
        self.write(test, "expected failure")

    def addUnexpectedSuccess(self, test):
        super().addUnexpectedSuccess(test)
        self.write(test, "unexpected success")

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            self.write(test, "FAIL")


class Runner(DiscoverRunner):
    def get_resultclass(self):
        return Result
