"""What is known of a variant's base before it is run, and what is wrong with it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatpipe.config.schema import Variant
from chatpipe.errors import ChatpipeError, ConfigError, ModelError
from chatpipe.kernels.switch import VARIABLE, is_enabled
from chatpipe.models.base_checks import base_faults
from chatpipe.models.shapes import Shapes, shapes_of
from chatpipe.planning.result import Messages
from chatpipe.sources.base_files import has_chat_template, unread_weights
from chatpipe.sources.local_paths import local_path
from chatpipe.sources.metadata import SourceMetadata, base_metadata
from chatpipe.sources.model_directory import adapter_files_left_out
from chatpipe.study.recipe import Recipe
from chatpipe.study.template_check import is_own_template
from chatpipe.utils.sentences import listed


@dataclass(frozen=True)
class PlannedBase:
    """Looks at a base's files as far as they are here, and says what is odd."""

    variant: Variant
    recipe: Recipe
    messages: Messages

    def upstream(self) -> SourceMetadata:
        """Return the base as far as it is known without a download; without a directory where it
        has a fault."""
        try:
            self.recipe.base(self.variant)
            metadata = base_metadata(self.variant.base_model)
        except ChatpipeError as error:
            self.messages.faults.append(f"base_model: {error}")
            return SourceMetadata()
        if metadata.unknown:
            self.messages.notes.append(metadata.unknown)
        if metadata.artifact is None and not is_own_template(self.variant):
            self.messages.notes += _own_template_note(self.variant, metadata.directory)
        if left_out := self._adapter_files(metadata):
            self.messages.notes.append(
                f"an adapter lies in the base's directory ({', '.join(left_out)}); it is not used."
            )
        unread = unread_weights(metadata.directory) if metadata.directory else []
        if unread:
            self.messages.notes.append(
                f"{listed(unread)} in the base's directory: transformers does not read these "
                "weights, as others come first."
            )
        faults = base_faults(metadata.directory) if metadata.directory else []
        self.messages.faults += [
            f"base_model: {self.variant.base_model.repo}: {fault}" for fault in faults
        ]
        return metadata.model_copy(update={"directory": None}) if faults else metadata

    def _adapter_files(self, metadata: SourceMetadata) -> list[str]:
        """Return the adapter files beside the base: in the directory that the variant names, as the
        store may have the same base from another one; else where the stored one comes from."""
        if directory := local_path(self.variant.base_model.repo):
            details = adapter_files_left_out(directory)
        else:
            details = metadata.artifact.details() if metadata.artifact else {}
        return details.get("adapter_files_left_out", [])

    def shapes(self, upstream: SourceMetadata) -> Shapes | None:
        """Return its dimensions, where its configuration is here."""
        if upstream.directory is None:
            return None
        try:
            shapes = shapes_of(upstream.directory, self.variant.lora)
            self._say_what_is_quantized(shapes)
            self._say_what_is_padded(shapes)
            return shapes
        except ConfigError as error:
            self.messages.faults += error.faults
        except (ModelError, ValueError) as error:
            self.messages.faults.append(f"base_model: {self.variant.base_model.repo}: {error}")
        except AttributeError as error:  # an architecture that names its sizes in its own way
            self.messages.notes.append(f"memory and time are not known for this base: {error}.")
        return None

    def tokenizer(self, upstream: SourceMetadata) -> Any:
        """Return its tokenizer, where that is here."""
        if upstream.directory is None:
            return None
        from chatpipe.models.loading import load_tokenizer

        try:
            return load_tokenizer(upstream.directory)
        except ModelError as error:
            self.messages.faults.append(f"base_model: {self.variant.base_model.repo}: {error}")
            return None

    def _say_what_is_quantized(self, shapes: Shapes) -> None:
        """Say where most weights are not quantized: experts in one tensor are no linear layers."""
        embeddings = 2 * shapes.vocabulary * shapes.hidden
        others = shapes.parameters - shapes.linear_parameters - embeddings
        if self.variant.quantization.method == "nf4" and others > shapes.linear_parameters:
            self.messages.notes.append(
                f"only {shapes.linear_parameters:,} of {shapes.parameters:,} parameters are of "
                "layers that NF4 quantizes; the others stay as they are."
            )

    def _say_what_is_padded(self, shapes: Shapes) -> None:
        """Say why rows are padded instead of packed, as far as the configuration tells."""
        reason = shapes.packing_fault
        if not is_enabled("packing"):
            reason = f"{VARIABLE} is {os.environ[VARIABLE]}"
        if reason:
            self.messages.notes.append(
                f"rows of this base are padded, not packed, which is slower and takes more memory: "
                f"{reason}."
            )


def _own_template_note(variant: Variant, directory: Path | None) -> list[str]:
    """Say that the base may also be measured in its own chat template: which steps that takes is
    known when the base is here."""
    if directory is not None and not has_chat_template(directory):
        return []
    condition = "" if directory is not None else "if it has a chat template of its own, "
    return [
        f"{variant.base_model.short_name} is not here yet; {condition}the report has a row for it "
        "in its own chat template, whose scores and answers are not among the artifacts above."
    ]
