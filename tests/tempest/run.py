"""Configures Tempest for one controller, runs the listed tests, and tells what became of each."""

import argparse
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

import requests
import subunit
import testtools

CONFIGURATION = """\
[DEFAULT]
log_dir = {folder}
log_file = tempest.log
[oslo_concurrency]
lock_path = {folder}/lock
[identity]
uri_v3 = {url}/identity/v3
auth_version = v3
region = {region}
v3_endpoint_type = public
{ca}
[identity-feature-enabled]
trust = false
application_credentials = true
access_rules = false
security_compliance = false
[auth]
use_dynamic_credentials = true
# Without routers, every project uses the shared network below.
create_isolated_networks = false
default_credentials_domain_name = Default
admin_username = {user}
admin_project_name = {project}
admin_password = {password}
admin_domain_name = Default
[compute]
image_ref = {image}
image_ref_alt = {image_alt}
flavor_ref = {flavor}
flavor_ref_alt = {flavor_alt}
fixed_network_name = {network_name}
build_interval = 1
build_timeout = 120
min_microversion = 2.1
max_microversion = 2.96
[compute-feature-enabled]
resize = false
cold_migration = false
live_migration = false
# No guest is given a password, so none is answered.
enable_instance_password = false
rescue = false
personality = false
vnc_console = false
interface_attach = false
suspend = false
shelve = false
snapshot = false
[network]
public_network_id = {external}
floating_network_name = {external_name}
[network-feature-enabled]
api_extensions = {extensions}
floating_ips = false
[image-feature-enabled]
import_image = false
[validation]
run_validation = false
[service_available]
nova = true
neutron = true
glance = true
cinder = false
swift = false
horizon = false
"""


class Cloud:
    """The administrator's way into the controller."""

    def __init__(self, options):
        self.url = options.url.rstrip("/")
        self.session = requests.Session()
        # Else the environment's certificates would go before --ca, and its proxies between.
        self.session.trust_env = False
        self.session.verify = options.ca or True
        scope = {"project": {"name": options.project, "domain": {"id": "default"}}}
        user = {
            "name": options.user,
            "domain": {"id": "default"},
            "password": options.password,
        }
        identity = {"methods": ["password"], "password": {"user": user}}
        answer = self.session.post(
            self.url + "/identity/v3/auth/tokens",
            json={"auth": {"identity": identity, "scope": scope}},
            timeout=30,
        )
        self.check(answer)
        self.session.headers["X-Auth-Token"] = answer.headers["X-Subject-Token"]
        catalog = answer.json()["token"]["catalog"]
        self.region = catalog[0]["endpoints"][0]["region_id"]

    @staticmethod
    def check(answer):
        if not answer.ok:
            request = answer.request
            sys.exit(f"{request.method} {request.url}: {answer.status_code}: {answer.text}")

    def call(self, method, path, **more):
        answer = self.session.request(method, self.url + path, timeout=60, **more)
        self.check(answer)
        return answer.json() if answer.content else None

    def find(self, path, key, name):
        found = self.call("GET", f"{path}?name={name}")[key]
        return found[0]["id"] if found else None

    def image(self, name, disk_format, **properties):
        """A public image of one MiB; made once."""
        found = self.find("/image/v2/images", "images", name)
        if found:
            return found
        body = {
            "name": name,
            "disk_format": disk_format,
            "container_format": "bare",
            "visibility": "public",
            **properties,
        }
        image = self.call("POST", "/image/v2/images", json=body)["id"]
        self.call(
            "PUT",
            f"/image/v2/images/{image}/file",
            data=name.encode().ljust(1 << 20, b"\0"),
            headers={"Content-Type": "application/octet-stream"},
        )
        return image

    def network(self, name, cidr, **more):
        """A network with one subnet; made once."""
        found = self.find("/network/v2.0/networks", "networks", name)
        if found:
            return found
        body = {"network": {"name": name, **more}}
        network = self.call("POST", "/network/v2.0/networks", json=body)["network"]["id"]
        subnet = {"network_id": network, "ip_version": 4, "cidr": cidr}
        self.call("POST", "/network/v2.0/subnets", json={"subnet": subnet})
        return network

    def flavor(self, name, ram):
        """A public flavor without a disk of its own; made once."""
        flavors = self.call("GET", "/compute/v2.1/flavors")["flavors"]
        for flavor in flavors:
            if flavor["name"] == name:
                return flavor["id"]
        body = {"flavor": {"name": name, "vcpus": 1, "ram": ram, "disk": 1}}
        return self.call("POST", "/compute/v2.1/flavors", json=body)["flavor"]["id"]


def wait_for_a_host(cloud, patience=60):
    """Waits until a compute host is up: without one, every server fails."""
    ends = time.monotonic() + patience
    while True:
        services = cloud.call("GET", "/compute/v2.1/os-services?binary=nova-compute")["services"]
        if any(service["state"] == "up" for service in services):
            return
        if time.monotonic() > ends:
            sys.exit(f"no compute host is up after {patience} s; the controller knows: {services}")
        time.sleep(1)


def configure(cloud, options, folder):
    """Makes what the tests refer to, and writes tempest.conf."""
    wait_for_a_host(cloud)
    kernel = cloud.image("tempest-kernel", "raw")
    root = {"kernel_id": kernel, "os_command_line": "console=ttyS0"}
    extensions = cloud.call("GET", "/network/v2.0/extensions")["extensions"]
    text = CONFIGURATION.format(
        folder=folder,
        url=cloud.url,
        region=cloud.region,
        ca=f"ca_certificates_file = {os.path.abspath(options.ca)}" if options.ca else "",
        user=options.user,
        project=options.project,
        password=options.password.replace("$", "$$"),
        image=cloud.image("tempest-one", "raw", **root),
        image_alt=cloud.image("tempest-two", "raw", **root),
        flavor=cloud.flavor("tempest-small", 64),
        flavor_alt=cloud.flavor("tempest-large", 128),
        network_name="tempest-shared",
        external=cloud.network(
            "tempest-external", "172.24.4.0/24", **{"router:external": True}
        ),
        external_name="tempest-external",
        extensions=",".join(e["alias"] for e in extensions),
    )
    cloud.network("tempest-shared", "10.200.0.0/16", shared=True)
    path = os.path.join(folder, "tempest.conf")
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return path


class Results(testtools.StreamResult):
    """What became of each test, and why."""

    def __init__(self):
        super().__init__()
        self.status_of = {}
        self.reasons = {}

    def status(self, test_id=None, test_status=None, file_name=None, file_bytes=None, **_):
        name = re.sub(r"\[.*", "", test_id or "")
        if file_name in ("traceback", "reason") and file_bytes:
            text = bytes(file_bytes).decode(errors="replace")
            self.reasons[name] = self.reasons.get(name, "") + text
        if test_status in ("success", "fail", "skip", "xfail", "uxsuccess"):
            self.status_of[name] = test_status


def wanted_tests(options):
    with open(options.list, encoding="utf-8") as file:
        lines = [line.strip() for line in file]
    tests = [line for line in lines if line and not line.startswith("#")]
    return [test for test in tests if re.search(options.only, test)]


def run(options, folder, configuration, wanted):
    """Runs them; gives the results as read from Tempest's own stream."""
    listed = os.path.join(folder, "listed")
    pattern = "|".join(re.escape(test) + r"(\[|$)" for test in wanted)
    environment = dict(os.environ, PATH=f"{options.venv}/bin:{os.environ['PATH']}")
    environment["OS_LOG_PATH"] = folder
    workspace = os.path.join(folder, "workspace")
    tempest = f"{options.venv}/bin/tempest"
    subprocess.run(
        [tempest, "init", "--workspace-path", f"{folder}/workspaces.yaml", workspace],
        check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment,
    )
    with open(listed, "w", encoding="utf-8") as file:
        file.write(pattern)
    command = [
        tempest, "run", "--subunit", "--config-file", configuration, "--regex", pattern,
        "--concurrency", str(options.concurrency),
    ]
    done = subprocess.run(
        command, cwd=workspace, env=environment, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )
    results = Results()
    stream = subunit.ByteStreamToStreamResult(
        io.BytesIO(done.stdout), non_subunit_name="stdout"
    )
    stream.run(results)
    if not results.status_of:
        sys.stderr.write(done.stderr.decode(errors="replace"))
    return results


def report(wanted, results, seconds):
    """One line a test; the reason under it unless it passed. Gives whether all is well."""
    passed = 0
    for test in wanted:
        status = results.status_of.get(test, "did not run")
        passed += status == "success"
        print(f"{'ok' if status == 'success' else status:12} {test}")
        if status != "success":
            print("    " + results.reasons.get(test, "").strip().replace("\n", "\n    "))
    broken = {
        name: status
        for name, status in results.status_of.items()
        if name not in wanted and status == "fail"
    }
    for name in broken:
        print(f"{'fail':12} {name}")
        print("    " + results.reasons.get(name, "").strip().replace("\n", "\n    "))
    skipped = sum(status == "skip" for status in results.status_of.values())
    print(
        f"tempest: {passed} of {len(wanted)} passed, {skipped} skipped, "
        f"in {seconds:.1f} s"
    )
    return passed == len(wanted) and not broken


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--password", required=True)
    parser.add_argument("--user", default="admin")
    parser.add_argument("--project", default="admin")
    parser.add_argument("--ca")
    parser.add_argument("--concurrency", type=int, default=2)
    parser.add_argument("--only", default="", help="a regular expression of the list's lines")
    parser.add_argument("--keep", help="keep Tempest's log and configuration here")
    parser.add_argument("--venv", required=True)
    parser.add_argument("--list", required=True)
    options = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="berth-tempest-")
    try:
        wanted = wanted_tests(options)
        configuration = configure(Cloud(options), options, folder)
        started = time.monotonic()
        results = run(options, folder, configuration, wanted)
        well = report(wanted, results, time.monotonic() - started)
        if options.keep:
            shutil.copytree(folder, options.keep, dirs_exist_ok=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
