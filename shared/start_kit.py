"""The start kit of an invited site: one archive with every file that its agent needs, and the commands to run.

The only secret in it is the enrolment token, which works once.
"""

import io
import shlex
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from undersong.shared.secagg.engines import ENGINES
from undersong.shared.yaml_texts import dump_document

TOKEN_FILE: Final = "enrol-token"  # noqa: S105  (a file's name)
_CA_FILE: Final = "ca.pem"

_DATASETS: Final = """\
# The data sets of this site. Nothing is read that is not declared here. For example:
# datasets:
# - name: heart
#   kind: csv
#   path: data/heart.csv
#   label: disease
#   columns:
#   - {name: age, type: number}
#   - {name: sex, type: category, categories: [f, m]}
#   - {name: disease, type: number}
datasets: []
"""

_POLICY: Final = """\
# What this site allows. What is not named here is refused, whatever the platform says. As it is, no recipe may run and
# no data set may be read: name what you allow, and check it with `undersong policy lint policy.yaml`.
federations: [own]  # the federation in which this agent enrols
recipes: []  # for example [tabular]
datasets: {{}}  # for example {{heart: {{columns: [age, sex, disease]}}}}
engines: [{engines}]  # no service sees a single update
kinds: [initialise, standardise, train, evaluate]
min_cohort: 3  # sums over fewer sites are never opened with this site's data
reports: location  # of a failure here the platform learns where in the code, never the text
"""

_COMPOSE: Final = """\
# The agent in a container: docker compose up --detach
services:
  agent:
    image: undersong-agent:${UNDERSONG_VERSION:-local}
    user: "${UNDERSONG_UID:-1000}:${UNDERSONG_GID:-1000}"  # who owns this folder: id -u, id -g
    volumes: [".:/var/lib/undersong"]  # agent.yaml, datasets.yaml, policy.yaml, data, state
    read_only: true
    tmpfs: ["/tmp:size=256m,mode=1777"]
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]
    restart: unless-stopped
    init: true
    stop_grace_period: 25s
"""

_README: Final = """\
Start kit of site {name} ({site_id})
{line}

This folder holds one secret: the enrolment token in `{token_file}`. It works once, for this site alone, until
{expires}. Send this kit over a channel that you trust. There is no other secret in it.

1. Unpack it on the machine that has the data:
       tar -xzf {archive} && cd {folder}
2. Put the data into a folder `data` here, and declare it in datasets.yaml; this drafts an entry to read and correct:
       undersong data init data/FILE.csv --label COLUMN --into datasets.yaml
3. Say in policy.yaml what is allowed; as it is, it allows nothing. Check both:
       undersong policy lint policy.yaml
       undersong doctor --agent agent.yaml
4. Start the agent, in a Python environment with `pip install 'undersong[agent]'`:
       undersong agent run --config agent.yaml
   or in a container:
       UNDERSONG_UID=$(id -u) UNDERSONG_GID=$(id -g) docker compose up --detach
{approval}"""

_APPROVAL: Final = """\
5. The agent logs `enrolment.waiting` with the fingerprint of its key. Tell it to the operator of the keys service over
   another channel, such as the telephone. The operator compares it and runs:
       undersong site approve {name}
   The agent then gets its certificate by itself.
"""


@dataclass(frozen=True, slots=True)
class StartKit:
    """What goes into one site's kit. `urls`: the services' base addresses by name, as the site reaches them.

    ca_pem: whom to trust behind https; empty: the system's authorities. needs_approval: whether an operator of the keys
    service approves the site's key.
    """

    name: str
    site_id: str
    token: str
    expires_at: datetime
    urls: Mapping[str, str]
    ca_pem: bytes = b""
    needs_approval: bool = True

    @property
    def folder(self) -> str:
        """The folder's name in the archive: the site's, without what a file name must not have."""
        kept = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in self.name)
        return f"undersong-{kept.strip('-') or self.site_id}"

    @property
    def ascii_name(self) -> str:
        """The archive's name, where only ASCII may stand."""
        return self.file_name if self.folder.isascii() else f"undersong-{self.site_id}.tar.gz"

    @property
    def file_name(self) -> str:
        """The archive's name."""
        return f"{self.folder}.tar.gz"

    def files(self) -> dict[str, bytes]:
        """Return the files by name."""
        settings = {"data_dir": "state", "enrol_token_file": TOKEN_FILE}
        settings |= {f"{service}_url": url for service, url in self.urls.items()}
        found = {
            "README.txt": self._readme(),
            "datasets.yaml": _DATASETS,
            "policy.yaml": _POLICY.format(engines=_engines()),
            "compose.yaml": _COMPOSE,
            TOKEN_FILE: f"{self.token}\n",
            ".gitignore": "*\n",
        }
        if self.ca_pem:
            settings["ca_file"] = _CA_FILE
        files = {name: text.encode() for name, text in found.items()}
        files["agent.yaml"] = dump_document(settings).encode()
        return files | ({_CA_FILE: self.ca_pem} if self.ca_pem else {})

    def archive(self) -> bytes:
        """Return the kit as .tar.gz; only its owner may read the token."""
        written = io.BytesIO()
        with tarfile.open(fileobj=written, mode="w:gz") as archive:
            for name, content in sorted(self.files().items()):
                entry = tarfile.TarInfo(f"{self.folder}/{name}")
                entry.size, entry.mode = len(content), 0o600 if name == TOKEN_FILE else 0o644
                archive.addfile(entry, io.BytesIO(content))
        return written.getvalue()

    def _readme(self) -> str:
        title = f"Start kit of site {self.name} ({self.site_id})"
        return _README.format(
            name=self.name,
            site_id=self.site_id,
            line="=" * len(title),
            token_file=TOKEN_FILE,
            expires=f"{self.expires_at:%Y-%m-%d %H:%M} UTC",
            archive=self.file_name,
            folder=self.folder,
            approval=_APPROVAL.format(name=shlex.quote(self.name)) if self.needs_approval else "",
        )


def _engines() -> str:
    """Return the engines with which no service sees a single update."""
    return ", ".join(sorted(facts.name for facts in ENGINES.values() if not facts.sees_updates))
