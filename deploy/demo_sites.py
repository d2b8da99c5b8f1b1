"""Register the demonstration's four hospitals and leave each one's files in its own volume, once.

Runs as a one-shot container of profile `demo` with the first administrator's tokens; nothing like it belongs beside
real data, where each owner starts an agent with a token received by another way.
"""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from undersong.client import Client
from undersong.local.sites import SiteFolder
from undersong.profile import Profile, load_profile

EXAMPLE = Path("/example")
SITES = Path("/sites")
AGENT_HOME = Path("/var/lib/undersong")  # where a site's volume lies in its agent's container
ADMIN_TOKEN = Path("/run/coordinator/bootstrap/admin-token")
OPERATOR_TOKEN = Path("/run/keys/bootstrap/operator-token")
FEDERATION = "hospitals"


def example() -> ModuleType:
    """Return the module examples/hospital/compare.py, which knows the hospitals and their rows."""
    spec = importlib.util.spec_from_file_location("hospital_example", EXAMPLE / "compare.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError(EXAMPLE / "compare.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def profile() -> Profile:
    """Return the services' addresses from the environment, the tokens from their files."""
    addresses = load_profile()
    return replace(addresses, token=ADMIN_TOKEN.read_text().strip(), operator_token=OPERATOR_TOKEN.read_text().strip())


def main() -> None:
    """Register what is not registered; a site whose files lie there already is left alone."""
    hospitals = example()
    with Client(profile()) as client:
        federations = {item.name: item for item in client.federations()}
        federation = federations.get(FEDERATION) or client.create_federation(FEDERATION)
        known = {site.name: site for site in client.sites(federation.id)}
        for name in hospitals.HOSPITALS:
            volume = SITES / name
            if (volume / "agent.yaml").exists():
                continue
            site = known.get(name) or client.create_site(federation.id, name, f"{name} hospital")
            token = client.create_enrolment_token("site", site.id, federation.id).token
            datasets = hospitals.write_site(name, volume)
            for entry in datasets["datasets"]:
                entry["path"] = str(AGENT_HOME / Path(entry["path"]).relative_to(volume))
            SiteFolder(volume).write(
                client.profile.urls(),
                token=token,
                datasets=datasets,
                policy=EXAMPLE / "policy.yaml",
                ca_file=client.profile.ca_file,
            )
            sys.stdout.write(f"site {name}: {site.id}\n")


if __name__ == "__main__":
    main()
