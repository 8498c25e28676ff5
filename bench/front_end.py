"""One front-end with its embedded backend, for what is measured of TLS: what the kernel and it itself say of it, and the
record. Stands on measure.py.

Owns the processes that it starts: each ends with its `with` block, whatever happens.
"""
import contextlib, http.client, json, os, resource, signal, socket, subprocess, sys, tempfile, time

sys.dont_write_bytecode = True
import measure
from measure import LOAD_CORE, PORTS, RINGFRONT, ROOT, SERVER_CORE, certificate, text

CONFIGURATION = """
[node]
name = "bench"
state_dir = "{work}/state"
cores = [{core}]
housekeeping_core = {housekeeping}
watch = false
[zone.edge]
transports = ["tls", "tcp"]
[zone.core]
transports = ["tcp"]
trusted = true
allow_from = ["127.0.0.0/8"]
[[listener]]
name = "edge"
zone = "edge"
transport = "tls"
bind = ["{address}"]
certificates = [{{ names = [], chain = "{work}/cert.pem", key = "{work}/key.pem" }}]
[tls]
versions = ["1.3", "1.2"]
groups = [{groups}]
[[pool]]
name = "p"
zone = "core"
failover = false
health = "off"
backends = {backends}
[[route]]
from_zone = "edge"
pool = "p"
[admin]
listen = "unix:{work}/admin.sock"
[latency]
{latency_log}
interval = "1s"
[limits]
connections_per_core = {connections}
connections_per_prefix = 100000
requests_per_prefix = "off"
requests_per_connection = "off"
handshakes_per_core = {handshakes}
handshakes_per_prefix = {handshakes_per_prefix}
handshake_rate_per_prefix = "100000/s"
handshake_share = {share}
idle_timeout = "10m"
[log]
level = "error"
"""


def build(*examples, benches=()):
    """Builds the binary and these programs; where the benches lie, by name. Always with one of them, since what they
    stand on is then built alike for every script."""
    command = ["cargo", "build", "--release", "--quiet", "--message-format=json", "--bin", "ringfront"]
    for example in examples or ["backend"]:
        command += ["--example", example]
    for bench in benches:
        command += ["--bench", bench]
    built = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    artifacts = [json.loads(line) for line in built]
    return {it["target"]["name"]: it["executable"] for it in artifacts
            if it.get("executable") and it["target"]["kind"] == ["bench"]}


def raise_descriptors(wanted):
    """Raises the limit on descriptors as far as this user may; what children get."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for ceiling in (max(hard, wanted), hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, ceiling), ceiling))
            break
        except (ValueError, PermissionError, OSError):
            continue
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


class Admin(http.client.HTTPConnection):
    """HTTP over the admin socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=30)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class FrontEnd:
    """A running ringfront in a directory of its own."""

    def __init__(self, work, process, address):
        self.work, self.process, self.pid, self.target = work, process, process.pid, "tls:" + address

    def ask(self, path, method="GET"):
        """The body of an answer of the admin interface: JSON where it is that."""
        admin = Admin(os.path.join(self.work, "admin.sock"))
        admin.request(method, path)
        answer = admin.getresponse()
        body = answer.read().decode()
        if answer.status != 200:
            raise RuntimeError(f"{method} {path}: {answer.status} {body}")
        return json.loads(body) if body.startswith(("{", "[")) else body

    def metric(self, *parts):
        """The sum of all metrics whose line holds each of `parts`."""
        lines = self.ask("/metrics").splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines
                   if not line.startswith("#") and all(part in line for part in parts))

    def worker_task(self):
        """The thread of the only worker."""
        tasks = f"/proc/{self.pid}/task"
        for task in os.listdir(tasks):
            with open(f"{tasks}/{task}/comm") as file:
                if file.read().strip() == "worker-0":
                    return int(task)
        names = [open(f"{tasks}/{task}/comm").read().strip() for task in os.listdir(tasks)]
        sys.exit(f"no thread of a worker among {names}")

    def anonymous(self):
        """Resident anonymous memory in bytes (proc_pid_status(5))."""
        return status_bytes(self.pid, "RssAnon")


def status_bytes(pid, key):
    with open(f"/proc/{pid}/status") as file:
        line = next(line for line in file if line.startswith(key + ":"))
    return int(line.split()[1]) * 1024


def task_ns(pid, task):
    """Processor time that the scheduler gave to one thread, in nanoseconds (proc(5), schedstat)."""
    with open(f"/proc/{pid}/task/{task}/schedstat") as file:
        return int(file.read().split()[0])


def process_ns(pid):
    """The same of all threads."""
    return sum(task_ns(pid, task) for task in os.listdir(f"/proc/{pid}/task"))


def ahead_of_others():
    """Called in a child before it runs: where this user may, whatever else the host does waits for it (SCHED_FIFO)."""
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


def may_run_ahead():
    """Whether `ahead_of_others` has an effect."""
    return subprocess.run(["chrt", "--fifo", "1", "true"], capture_output=True).returncode == 0


def end(process, patience=15):
    """Asks a child to end, and sees to it."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def run(work, ahead=False, **settings):
    """Runs the front-end with CONFIGURATION until the block ends; `ahead` of what else the host does."""
    address = f"127.0.0.1:{PORTS + 70}"
    fill = {"core": SERVER_CORE, "housekeeping": LOAD_CORE, "groups": '"X25519"', "backends": '"embedded"',
            "connections": 12000, "handshakes": 8192, "handshakes_per_prefix": 8192, "share": 0.5, "latency_log": ""}
    path = os.path.join(work, "ringfront.toml")
    with open(path, "w") as file:
        file.write(CONFIGURATION.format(work=work, address=address, **{**fill, **settings}))
    with open(os.path.join(work, "ringfront.log"), "w") as log:
        process = subprocess.Popen([RINGFRONT, "run", "--config", path], cwd=work, stdout=log, stderr=log,
                                   preexec_fn=ahead_of_others if ahead else None)
    running = FrontEnd(work, process, address)
    try:
        for _ in range(100):
            with contextlib.suppress(OSError, RuntimeError):
                running.ask("/readyz")
                break
            if process.poll() is not None:
                break
            time.sleep(0.1)
        else:
            process.kill()
        if process.poll() is not None:
            sys.exit("ringfront did not get ready: " + open(os.path.join(work, "ringfront.log")).read())
        yield running
    finally:
        end(process)


@contextlib.contextmanager
def directory():
    with tempfile.TemporaryDirectory(prefix="ringfront-bench-") as work:
        certificate(work)
        yield work


def heading(arguments, *more):
    """The lines that every record begins with."""
    script = os.path.relpath(os.path.realpath(sys.argv[0]), ROOT)
    return [
        "command: " + " ".join([script, *arguments]),
        f"date: {time.strftime('%Y-%m-%d')}",
        f"commit: {text(['git', '-C', ROOT, 'rev-parse', '--short', 'HEAD'])}"
        + (" and changes" if text(["git", "-C", ROOT, "status", "--porcelain", "src", "Cargo.lock"]) else ""),
        "host: {cpu}, {cores} cores, Linux {kernel}, {rustc}".format(**measure.host()),
        f"load average at the end: {os.getloadavg()[0]:.2f} (what is measured is part of it)",
        *more,
    ]


def finish(lines, record, holds):
    """Prints the report, writes the record, and ends with 1 when a bound does not hold."""
    report = "\n".join(lines) + "\n"
    print(report)
    if record:
        os.makedirs(os.path.dirname(record) or ".", exist_ok=True)
        with open(record, "w") as file:
            file.write(report)
    sys.exit(0 if holds else 1)


def spread(values):
    """Median, lowest and highest."""
    ordered = sorted(values)
    return ordered[len(ordered) // 2], ordered[0], ordered[-1]
