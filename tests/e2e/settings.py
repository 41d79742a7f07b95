"""What can be said by the environment. tests/e2e/run documents it."""

import os
import shutil
import time
from pathlib import Path

from checks import miss

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm/lameduck"
PREVIOUS = ROOT / "tests/deploy/previous/lameduck-0.1.0.tgz"
SHAPES = ("embedded", "postgres")
STORIES = ("upgrade", "rollout", "scale", "eviction", "short", "ledger", "liveness", "doctor", "helm-test", "force")


class Mistake(Exception):
    """A setting that cannot be."""


class Settings:
    def __init__(self, environment=os.environ):
        self.environment = environment
        self.image = self.of("E2E_IMAGE", "lameduck:e2e")
        self.load = self.of("E2E_LOAD")
        self.values = self.of("E2E_VALUES")
        self.python_image = self.of("E2E_PYTHON_IMAGE", "docker.io/library/python:3.13-alpine")
        self.postgres_image = self.of("E2E_POSTGRES_IMAGE", "docker.io/library/postgres:17-alpine")
        self.postgres_user = int(self.number("E2E_POSTGRES_USER", 70))
        self.database_url = self.of("E2E_DATABASE_URL")
        self.storage_class = self.of("E2E_STORAGE_CLASS")
        self.namespace = self.of("E2E_NAMESPACE", f"lameduck-e2e-{time.strftime('%H%M%S')}")
        self.patience = int(self.number("E2E_PATIENCE", 300))
        self.upgrade = self.of("E2E_UPGRADE", "yes") != "no"
        self.keep = bool(self.of("E2E_KEEP"))
        self.shapes = self.some_of("E2E_SHAPES", SHAPES)
        self.stories = self.some_of("E2E_STORIES", STORIES)
        self.program = self.find_program()
        if self.values and not Path(self.values).is_file():
            raise Mistake(f"E2E_VALUES={self.values} is no file. Give a values file for the chart, or leave it out.")

    def of(self, name, default=""):
        return self.environment.get(name) or default

    def number(self, name, default):
        text = self.of(name, str(default))
        if not text.isdecimal():
            raise Mistake(f"{name}={text} is no number.")
        return text

    def some_of(self, name, all_of_them):
        chosen = self.of(name, " ".join(all_of_them)).split()
        for word in chosen:
            if word not in all_of_them:
                raise Mistake(f"{name}: there is no {word}. There are: {', '.join(all_of_them)}.")
        return chosen

    def chosen(self, story):
        return story in self.stories

    def find_program(self):
        """The doctor from outside of the cluster is a program here."""
        given = self.of("E2E_LAMEDUCK")
        if given:
            if not shutil.which(given):
                raise Mistake(f"E2E_LAMEDUCK={given} cannot be run. Give the path of a lameduck binary, or leave it out.")
            return str(Path(shutil.which(given)).resolve())
        found = (ROOT / "target" / profile / "lameduck" for profile in ("release", "debug"))
        return next((str(path) for path in found if os.access(path, os.X_OK)), None)

    def say_no_program(self):
        miss("the doctor by the kubeconfig", "no lameduck here: cargo build, or E2E_LAMEDUCK=…")

    def helm_values(self):
        files = ["--values", self.values] if self.values else []
        return [*files, *(word for key, value in image_values(self.image).items() for word in ("--set-string", f"image.{key}={value}"))]


def image_values(image):
    """registry:5000/name:tag@sha256:… in the chart's words. The colon of a port is none of a tag."""
    name, _, digest = image.partition("@")
    repository, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        repository, tag = name, ""
    values = {"repository": repository}
    if digest:
        return values | {"digest": digest}
    if not tag:
        raise Mistake(f"E2E_IMAGE={image} has no tag. Say which, as in {image}:e2e.")
    return values | {"tag": tag}
