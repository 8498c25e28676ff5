"""What the measuring scripts share: building, servers pinned to one core, the generator and the backend on the other, and
figures that are medians of rounds taken in turn, each with its spread.

Owns every process that it starts, by its id. Judges nothing.
"""
import json, os, platform, re, shutil, signal, socket, statistics, subprocess, sys, tempfile, time

ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), ".."))
BENCH = os.path.join(ROOT, "bench")
TARGET = os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target")), "release")
RINGFRONT = os.path.join(TARGET, "ringfront")
SERVER_CORE, LOAD_CORE = 0, 1
# Beyond what any server here may still have to say.
FOREVER = "100000"
# Ports of this run's own: two ringfronts on one port would share its connections (SO_REUSEPORT). Below the ephemeral ones.
PORTS = 10_000 + os.getpid() % 200 * 100
os.environ["PATH"] += ":/usr/sbin"


def text(command):
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def build(*examples):
    words = [word for example in examples for word in ("--example", example)]
    subprocess.run(["cargo", "build", "--release", "--quiet", "--bin", "ringfront", *words], cwd=ROOT, check=True)


def example(name):
    return os.path.join(TARGET, "examples", name)


def certificate(work):
    """A P-256 certificate, its key, and both in one file."""
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                    "-days", "2", "-subj", "/CN=bench", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
                    "-keyout", f"{work}/key.pem", "-out", f"{work}/cert.pem"], check=True, capture_output=True)
    with open(f"{work}/both.pem", "w") as both:
        for part in ("cert", "key"):
            with open(f"{work}/{part}.pem") as file:
                both.write(file.read())
    for name in ("key", "both"):
        os.chmod(f"{work}/{name}.pem", 0o600)


def fill(source, target, values):
    """Copies a configuration with its @NAMES@ filled in; one that nobody fills is an error."""
    with open(source) as file:
        filled = re.sub(r"@([A-Z_]+)@", lambda name: str(values[name[1]]) if name[1] != "NAMES" else name[0], file.read())
    with open(target, "w") as file:
        file.write(filled)


def wait_for(address, process=None, log=None):
    host, port = address.rsplit(":", 1)
    for _ in range(150):
        try:
            socket.create_connection((host, int(port)), 1).close()
            return
        except OSError:
            if process and process.poll() is not None:
                break
            time.sleep(0.1)
    said = open(log).read()[-2000:] if log else ""
    sys.exit(f"nothing answers at {address}\n{said}")


class Process:
    """A program under measurement and its children, pinned to one core."""

    def __init__(self, name, command, core, work, address, cwd=None):
        self.name, self.log = name, os.path.join(work, f"{name}.log")
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(["taskset", "-c", str(core), *command], stdout=log, stderr=log, cwd=cwd)
        wait_for(address, self.process, self.log)

    def processes(self):
        """Ids of the process and all that descend from it."""
        found, at = [self.process.pid], 0
        while at < len(found):
            for task in os.listdir(f"/proc/{found[at]}/task"):
                with open(f"/proc/{found[at]}/task/{task}/children") as file:
                    found += [int(word) for word in file.read().split()]
            at += 1
        return found

    def memory(self):
        """User memory of all its processes in bytes, shared pages once (proc(5), smaps_rollup: Pss)."""
        total = 0
        for pid in self.processes():
            try:
                with open(f"/proc/{pid}/smaps_rollup") as file:
                    total += sum(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))
            except ProcessLookupError:
                pass  # A helper that has ended meanwhile.
        return total

    def system_calls(self, seconds):
        """System calls per second of all its processes, counted by perf; `None` where perf cannot."""
        pids = ",".join(map(str, self.processes()))
        asked = subprocess.run(["perf", "stat", "-x,", "-e", "raw_syscalls:sys_enter", "-p", pids, "sleep",
                                str(seconds)], capture_output=True, text=True)
        count = asked.stderr.split(",")[0].strip()
        return int(count) / seconds if count.isdigit() else None

    def stop(self):
        if self.process.poll() is not None:
            sys.exit(f"{self.name} has ended by itself: {open(self.log).read()[-2000:]}")
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


class Server:
    """One that can be measured: how it is started and where it listens. Its configurations stand in bench/compare."""

    def __init__(self, name, port, command, files=(), values=None):
        self.name, self.port, self.make, self.files, self.values = name, PORTS + port, command, files, values or {}

    def address(self, transport):
        return f"127.0.0.1:{self.port + (transport == 'tcp')}"

    def start(self, work, backend):
        values = {"WORK": work, "CORE": SERVER_CORE, "CORE_MASK": 1 << SERVER_CORE, "NAME": self.name,
                  "BACKEND": backend, "TLS_PORT": self.port, "TCP_PORT": self.port + 1, "ENGINE": "",
                  "BACKENDS": f'{{ name = "b", address = "{backend}", transport = "tcp" }}', **self.values}
        for file in self.files:
            fill(os.path.join(BENCH, "compare", file), os.path.join(work, f"{self.name}-{file}"), values)
            # Where one file names another.
            shutil.copy(os.path.join(work, f"{self.name}-{file}"), os.path.join(work, file))
        command = [word.format(work=work, backend=backend, **vars(self)) for word in self.make]
        return Process(self.name, command, SERVER_CORE, work, self.address(self.values.get("FIRST", "tls")), cwd=work)


KAMAILIO = ["kamailio", "-f", "{work}/{name}-kamailio.cfg", "-DD", "-E", "-m", "4096", "-M", "64", "-x", "fm", "-X", "fm",
            "-Y", "{work}", "-P", "{work}/{name}.pid"]


def ringfront(name="ringfront", port=0, **values):
    return Server(name, port, [RINGFRONT, "run", "--config", "{work}/{name}-ringfront.toml"], ["ringfront.toml"], values)


def nginx():
    return Server("nginx", 10, ["nginx", "-e", "{work}/nginx.log", "-c", "{work}/nginx-nginx.conf"], ["nginx.conf"])


def haproxy():
    return Server("haproxy", 20, ["haproxy", "-db", "-f", "{work}/haproxy-haproxy.cfg"], ["haproxy.cfg"])


def kamailio():
    return Server("kamailio", 30, KAMAILIO, ["kamailio-tls.cfg", "kamailio.cfg"])


def kamailio_tm():
    return Server("kamailio-tm", 40, [*KAMAILIO, "-A", "WITH_TM"], ["kamailio-tls.cfg", "kamailio.cfg"])


def tunnel():
    """bench/byte_proxy.rs over TLS; it speaks one transport at a time."""
    return Server("tunnel", 50, [example("byte_proxy"), "127.0.0.1:{port}", "{backend}", "--tls", "--core",
                                   str(SERVER_CORE), "--seconds", FOREVER])


def backend(work, number=0):
    port = PORTS + 60 + number
    address = f"127.0.0.1:{port}"
    command = [example("backend"), address, "--core", str(LOAD_CORE), "--seconds", FOREVER]
    return address, Process(f"backend-{port}", command, LOAD_CORE, work, address)


def load(target, *words, seconds=2.0, warmup=0.7, server=None, patience=90, check=True):
    """Runs the generator and gives back its report; processor time of `server` is that of its own measured window."""
    command = [RINGFRONT, "load", target, "--duration", f"{seconds}s", "--warmup", f"{warmup}s", "--core",
               str(LOAD_CORE), "--json", *map(str, words)]
    if target.startswith("tls:"):
        command.append("--insecure")
    if server:
        command += ["--server-pid", ",".join(map(str, server.processes()))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=patience)
    try:
        report = json.loads(done.stdout)
    except ValueError:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    if check and report["errors"]:
        print(f"{' '.join(command)}: {report['errors']} errors: {report['faults']}", file=sys.stderr)
    return report


def cost(server, process, transport, words, seconds):
    """Processor time of the server for each operation; `None` when nothing was completed."""
    report = load(f"{transport}:{server.address(transport)}", *words, seconds=seconds, server=process)
    found = report["server"]
    if not found:
        return stalled(server.name, report)
    return {"value": found["cpu_microseconds_per_operation"], "busy": found["cores"], "rate": report["rate"],
            "errors": report["errors"], "bound": report["generator"]["bound"], **report["handshakes"]}


def latency(name, target, words, seconds):
    """Microseconds from the intended start (open loop); `None` when nothing was completed."""
    report = load(target, *words, seconds=seconds)
    found = report["latency_nanoseconds"].get("operation")
    if not found:
        return stalled(name, report)
    return {"p50": found["p50"] / 1e3, "p99": found["p99"] / 1e3, "rate": report["rate"], "errors": report["errors"],
            "bound": bool(report["generator"] and report["generator"]["bound"])}


def stalled(name, report):
    print(f"{name} completed nothing: {report['errors']} errors {report['faults']}", file=sys.stderr)


def spread(values):
    """Median, least and most."""
    values = sorted(values)
    return {"median": statistics.median(values), "least": values[0], "most": values[-1]}


def ratios(ones, others):
    """One to another, round by round, since they were measured in turn."""
    return spread([one / other for one, other in zip(ones, others)])


def host():
    cpu = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    return {"cpu": cpu, "cores": os.cpu_count(), "kernel": platform.release(), "rustc": text(["rustc", "--version"])}


def heading(command):
    """Lines that open every record."""
    facts = host()
    return {
        "command": command,
        "date": time.strftime("%Y-%m-%d"),
        "commit": text(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"]),
        "host": f"{facts['cpu']}, {facts['cores']} cores, Linux {facts['kernel']}, {facts['rustc']}",
        "load average": f"{os.getloadavg()[0]:.2f} before the first measurement",
    }


def draw(chart, path):
    """A chart as SVG, by bench/draw.rs."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(chart, file)
        file.flush()
        subprocess.run([example("draw"), file.name, path], check=True)


def write(path, content):
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path, "w") as file:
        file.write(content)


def in_turn(servers, rounds, one):
    """`one` of each server, round by round; what gives None is left out."""
    found = {server.name: [] for server in servers}
    for _ in range(rounds):
        for server in servers:
            value = one(server)
            if value is not None:
                found[server.name].append(value)
    return {name: values for name, values in found.items() if values}


def finish(ident, title, unit, found, own="ringfront"):
    """A row of a report: for each server its samples, and how `own` stands to it."""
    row = {"id": ident, "title": title, "unit": unit, "own": own, "servers": {}, "ratios": {}}
    for name, samples in found.items():
        values = [sample["value"] for sample in samples]
        row["servers"][name] = {**spread(values), "values": values, "samples": samples}
        if name != own and own in found and all(values):
            row["ratios"][name] = ratios([sample["value"] for sample in found[own]], values)
    print(f"  {title}: " + ", ".join(f"{name} {one['median']:.2f}" for name, one in row["servers"].items()),
          file=sys.stderr)
    return row


def put(report, prefix, title):
    lines, marks = table(report)
    print("\n".join(lines))
    if not prefix:
        return
    write(f"{prefix}.txt", "\n".join(lines) + "\n")
    write(f"{prefix}.md", "\n".join(marks) + "\n")
    write(f"{prefix}.json", json.dumps(report, indent=1) + "\n")
    draw(chart(report, title), f"{prefix}.svg")


def table(report):
    names = list(dict.fromkeys(name for row in report["rows"] for name in row["servers"]))
    own = report["rows"][0]["own"] if report["rows"] else ""
    others = [name for name in names if name != own]
    lines = [f"{name}: {value}" for name, value in report["heading"].items()]
    lines += ["", "Server on core 0, generator and backend on core 1, loopback. Median of the rounds (least..most)."]
    marks = [f"{name}: {value}  " for name, value in report["heading"].items()]
    marks += ["", "| | unit | " + " | ".join(names) + " |", "|---|---|" + "---|" * len(names)]
    for row in report["rows"]:
        lines += ["", f"{row['title']}, {row['unit']}"]
        for name in names:
            if name in row["servers"]:
                one = row["servers"][name]
                ratio = row["ratios"].get(name)
                against = f"{own} is {shown(ratio)} of it" if ratio else ""
                lines.append(f"  {name:12}{shown(one):>28}  {', '.join(remarks(one['samples'])):48}{against}".rstrip())
        cells = [shown(row["servers"][name]) if name in row["servers"] else "" for name in names]
        marks.append(f"| {row['title']} | {row['unit']} | " + " | ".join(cells) + " |")
    marks += ["", f"{own} to each, round by round:", "", "| | " + " | ".join(others) + " |",
              "|---|" + "---|" * len(others)]
    for row in report["rows"]:
        cells = [shown(row["ratios"][name]) if name in row["ratios"] else "" for name in others]
        marks.append(f"| {row['title']} | " + " | ".join(cells) + " |")
    return lines, marks


def remarks(samples):
    """What else is known of the samples behind a figure."""
    def median(key):
        return statistics.median(sample[key] for sample in samples)
    said = []
    if "rate" in samples[0]:
        said.append(f"{median('rate'):,.0f}/s")
    if "busy" in samples[0]:
        said.append(f"{median('busy'):.2f} of a core")
    if any(sample.get("bound") for sample in samples):
        said.append("generator-bound")
    errors = sum(sample.get("errors", 0) for sample in samples)
    return said + [f"{errors} errors"] * (errors > 0)


def shown(one):
    """As many digits as the value bears."""
    def digits(value):
        return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 1000 else f"{value:,.0f}"
    if one["least"] == one["most"]:
        return digits(one["median"])
    return f"{digits(one['median'])} ({digits(one['least'])}..{digits(one['most'])})"


def chart(report, title):
    """One panel for each row: a bar for each server."""
    panels = []
    for row in report["rows"]:
        names = list(row["servers"])
        points = [[row["servers"][name][key] for key in ("median", "least", "most")] for name in names]
        panels.append({"title": row["title"], "unit": row["unit"], "bars": names, "values": points})
    heading = report["heading"]
    return {"title": title,
            "note": f"{heading['host']}; {heading['date']}, commit {heading['commit']}", "panels": panels}
