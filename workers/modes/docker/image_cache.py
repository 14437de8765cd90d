"""The image that a function runs on: which one, whether the engine has it, and whether it can serve.

Images are pulled only by :meth:`ImageCache.prepare`, when a function is created or updated; an invocation finds what is there.
"""

import threading
import time
from typing import Final

from workers.contract.messages import FunctionSpec
from workers.engine import Engine, EngineError, Image
from workers.environments.starter import StartError
from workers.images import recipes
from workers.images.names import image_of
from workers.modes.docker.spec import platform
from workers.settings import WorkerSettings

#: How long what the engine said of a name is believed; an image can be built anew under its name.
_BELIEVED_S: Final = 5.0


class ImageProblem(StartError):
    """The image can't be used."""

    def __init__(self, message: str, state_code: str) -> None:
        super().__init__(message, "InvalidRuntimeException", state_code)


class ImageCache:
    """The images of one engine."""

    def __init__(self, engine: Engine, settings: WorkerSettings, host: str) -> None:
        self._engine = engine
        self._settings = settings
        self._host = host
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, Image]] = {}

    def name(self, spec: FunctionSpec) -> str:
        """What the function's image is called."""
        if spec.package_type == "Image":
            return spec.image_uri
        try:
            return image_of(spec.runtime, self._settings.container_registry, self._settings.runtime_image_mapping)
        except ValueError as error:
            raise ImageProblem(str(error), "InvalidRuntime") from error

    def find(self, spec: FunctionSpec) -> Image:
        """The image that an invocation runs on. Raises :class:`ImageProblem`, with what to type, and ``EngineError``."""
        # What the function was created or updated with, whatever its name means by now.
        for name in (spec.image_id, self.name(spec)):
            if name and (found := self._look(name)) is not None:
                return found
        raise self._missing(spec, "")

    def _look(self, name: str) -> Image | None:
        now = time.monotonic()
        with self._lock:
            known = self._known.get(name)
        if known is not None and now - known[0] < _BELIEVED_S:
            return known[1]
        found = self._engine.image(name)
        with self._lock:
            if found is None:
                self._known.pop(name, None)
            else:
                self._known[name] = (now, found)
        return found

    def forget(self, spec: FunctionSpec) -> None:
        """Ask the engine again for the function's image, which turned out to be gone."""
        with self._lock:
            self._known.pop(spec.image_id, None)
            self._known.pop(self.name(spec), None)

    def prepare(self, spec: FunctionSpec) -> Image:
        """Have the image here, pulled when it is absent, and look whether it can serve. Raises as :meth:`find`."""
        self.forget(spec)
        name = self.name(spec)
        found = self._engine.image(name)
        if found is None:
            try:
                self._engine.pull(name, platform(spec, self._settings, self._host))
            except EngineError as error:
                raise self._missing(spec, f" Pulling it failed: {str(error).rstrip('.')}.") from error
            found = self._engine.image(name)
        if found is None:
            raise self._missing(spec, "")
        self._check(spec, name, found)
        return found

    def _missing(self, spec: FunctionSpec, why: str) -> ImageProblem:
        name = self.name(spec)
        if spec.package_type == "Image":
            hint = f"Build it there, or type: docker pull {name}."
            return ImageProblem(f"The container engine has no image {name}.{why} {hint}", "ImageDeleted")
        build = f"everwarm images build {spec.runtime}, or: " if spec.runtime in recipes.runtimes() else ""
        hint = f"Type: {build}docker pull {name}, or name another image with LAMBDA_RUNTIME_IMAGE_MAPPING."
        return ImageProblem(f"The container engine has no image {name} for {spec.runtime}.{why} {hint}", "InvalidImage")

    def _check(self, spec: FunctionSpec, name: str, image: Image) -> None:
        if spec.package_type == "Image":
            if not (spec.entry_point or spec.command or image.entrypoint or image.command):
                raise ImageProblem(f"The image {name} has neither ENTRYPOINT nor CMD.", "InvalidImage")
        elif not image.entrypoint and not spec.runtime.startswith("provided"):
            raise ImageProblem(
                f"The image {name} has no ENTRYPOINT, so it can't be a base image of {spec.runtime}: it must keep the "
                "contract of AWS's images (/lambda-entrypoint.sh, which takes the handler).",
                "InvalidRuntime",
            )
        if image.architecture != spec.architecture and not self._settings.ignore_architecture:
            raise ImageProblem(
                f"The image {name} is for {image.architecture}, the function for {spec.architecture} "
                "(LAMBDA_IGNORE_ARCHITECTURE=1 runs it all the same).",
                "InvalidImage",
            )
