"""What all commands share: exit statuses, how bad input is said, where compiled programs are kept."""

import os
from pathlib import Path
from typing import Any

import click

from .._fields import InputError

BAD_INPUT = 2
CHECK_FAILED = 1
REFUSED = 3
INTERRUPTED = 130  # what a shell reports for Ctrl-C
NO_MEMORY = "out of memory; lower run.chunk, run.paths or the number of accounts"


class Group(click.Group):
    """Turns bad input into one or a few lines and exit status 2; everything else is a bug and keeps its traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except InputError as error:
            fail(ctx, str(error))
        except BrokenPipeError:  # the reader of the output has gone, as in `tailrisk report RUN | head`
            raise
        except OSError as error:  # a disk or a file of the user, never the program
            name = error.filename or "the disk"
            fail(ctx, f"{name}: {error.strerror or error}; check the path, its permissions and the free space")
        except MemoryError:
            fail(ctx, NO_MEMORY)
        except RuntimeError as error:  # what a device says when its memory is full
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            fail(ctx, NO_MEMORY)
        except KeyboardInterrupt:
            click.echo("stopped", err=True)
            ctx.exit(INTERRUPTED)


def fail(ctx: click.Context, text: str) -> None:
    for line in text.splitlines():
        click.echo(f"error: {line}", err=True)
    ctx.exit(BAD_INPUT)


def start_jax() -> None:
    """Keeps compiled programs in the user's cache folder, so that a second run starts at once."""
    import jax

    root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    jax.config.update("jax_compilation_cache_dir", str(root / "tailrisk" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
