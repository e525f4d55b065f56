"""Convert a multi-stage Dockerfile to steps of E2B without loss: anything else is an error.

Pure: text in, values out. The parser, e2b-dockerfile-utils, is BuildKit's. How E2B runs a step is
known from its published sources (github.com/e2b-dev/infra,
`packages/orchestrator/pkg/template/build/commands`).
"""

from builder.flatten.convert import flatten
from builder.flatten.program import BaseConfig, Program, Step
from builder.flatten.stages import instruction_lines

__all__ = ["BaseConfig", "Program", "Step", "flatten", "instruction_lines"]
