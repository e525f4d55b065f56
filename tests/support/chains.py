"""Generate chains of stages for Hypothesis that use most of the Dockerfile language."""

from __future__ import annotations

import json

from hypothesis import strategies as st

FILES = {
    "a.txt": ("hello\n", 0o644),
    "run.sh": ("#!/bin/sh\necho run\n", 0o755),
    "d/b": ("", 0o600),
}
# Shows the arguments, environment, user and folder of a program.
TELL = '#!/bin/sh\nprintf "<%s>" "$@"; echo; id -un; pwd; echo "$A|$B|$C|$PATH|$HOME"\n'

names = st.sampled_from(["A", "B", "C"])
text = st.text(alphabet="ab1 %\\-\"'$`!~*?#:;&|<>(){}[]é\t", max_size=8)


def quoted(value: str) -> str:
    """Quote a value of ENV or ARG with double quotes, escaping `$`, `"` and backslashes."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    return f'"{escaped}"'


values = st.one_of(
    text.map(quoted),
    st.sampled_from(
        ["plain", "$A", "${B}", "${A:-x}", "${C:+y}", "'$A'", "a\\ b", '"$A-$B"', "--x"]
    ),
)
paths = st.sampled_from(["/srv/x", "/srv/x/y", "rel", "./rel/er", "/opt/$A_", "/home/user", "/"])
logged = st.sampled_from(
    ['"$A|$B|$C"', "$(pwd)", "$(id -un)", "$(umask)", "$0", '"a\\tb"', "$(echo $PATH)", "${A#x}"]
)
run_shell = st.one_of(
    logged.map(lambda word: f"RUN echo {word} >> /log/$(id -un)"),
    st.sampled_from(
        [
            "RUN touch made && chmod 0604 made || true",
            "RUN mkdir -p deep/er && echo x > deep/er/f || true",
            "RUN set -e; x=1; [ $x = 1 ] \\\n  # a comment inside\n  && echo 'two  lines' >> /log/two-$(id -un)",
            'RUN ["sh", "-c", "echo exec $A \\"$1\\" >> /log/exec-$(id -un)", "sh", "it\'s"]',
            "RUN : > '/log/it'\"'\"'s-'$(id -un)",
        ]
    ),
)
copies = st.builds(
    lambda flags, source, target: f"COPY {flags}{source} {target}",
    st.sampled_from(
        ["", "--chown=user:user ", "--chown=1000:0 ", "--chmod=0710 ", "--chown=user --chmod=600 "]
    ),
    st.sampled_from(["a.txt", "run.sh", "./d/b", "a.txt run.sh"]),
    st.sampled_from(["/srv/c/", "/srv/new/er/", "./", "sub/", "/opt/$A_/"]),
) | st.sampled_from(
    [
        "COPY a.txt /srv/renamed",
        'COPY ["a.txt", "/srv/with space/f"]',
        "COPY d/b /home/user/b",
        "COPY a.txt .",
        "COPY d /srv/c",
        "COPY . /srv/all/",
        "COPY --chown=user:user --chmod=0750 d/ /srv/new/er",
        "COPY --chown=user *.txt r??.sh d/* sub/",
    ]
)
instruction = st.one_of(
    st.builds(lambda name, value: f"ENV {name}={value}", names, values),
    st.builds(lambda name, a, b: f"ENV {name}={a} A={b}", names, values, values),
    st.builds(lambda name: f"ENV {name} old  style $A", names),
    st.builds(lambda name, value: f"ARG {name}={value}", names, values),
    st.just("ARG G"),
    run_shell,
    run_shell,
    copies,
    paths.map(lambda path: f"WORKDIR {path}"),
    st.sampled_from(
        ["USER user", "USER root", "USER 0", "LABEL a=b", "EXPOSE 80", "STOPSIGNAL TERM"]
    ),
    st.sampled_from(['SHELL ["/bin/bash", "-c"]', 'SHELL ["/bin/sh", "-e", "-c"]']),
    st.sampled_from(
        [
            'CMD ["tell", "a b", "$A"]',
            'CMD tell "$A" $B',
            'ENTRYPOINT ["tell", "e"]',
            "ENTRYPOINT tell shell $A",
            "ENTRYPOINT []",
            'CMD ["more"]',
        ]
    ),
)
stage = st.lists(instruction, min_size=1, max_size=6)


@st.composite
def chains(draw: st.DrawFn, base: str) -> str:
    """Draw a Dockerfile of one to three stages on `base`, sometimes with an unrelated stage."""
    lines = [
        "ARG G='from outside'",
        f"ARG IMAGE={base}",
        "FROM ${IMAGE} AS one",
        "USER root",
        "ENTRYPOINT []",
    ]
    lines += ["ENV A=a B='b b' C=", "RUN mkdir -m 1777 /log", "COPY tell.sh /usr/local/bin/tell"]
    lines += ["RUN chmod 0755 /usr/local/bin/tell", "WORKDIR /srv", *draw(stage)]
    if draw(st.booleans()):
        lines += [f"FROM {base} AS beside", "RUN false"]
    if draw(st.booleans()):
        lines += ["FROM one AS two", *draw(stage)]
        if draw(st.booleans()):
            lines += ["FROM two", *draw(stage)]
    else:
        lines += ["FROM one"]
    if not draw(st.booleans()):
        lines += ["ENTRYPOINT []", f"CMD {json.dumps(['tell', 'end'])}"]
    return "\n".join(lines) + "\n"
