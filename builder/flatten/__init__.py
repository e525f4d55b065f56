"""A multi-stage Dockerfile to E2B's steps, without loss: what cannot be kept is an error.

Pure: text in, values out. The only owner of e2b-dockerfile-utils, which is BuildKit's parser. How
E2B carries a step out was read from its published sources (github.com/e2b-dev/infra,
`packages/orchestrator/pkg/template/build/commands`).
"""

from builder.flatten.convert import flatten
from builder.flatten.program import BaseConfig, Metadata, Program, Step
from builder.flatten.stages import instruction_lines

__all__ = ["BaseConfig", "Metadata", "Program", "Step", "flatten", "instruction_lines"]
