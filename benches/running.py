"""What the benches that run the program share: a place to work in, an engine with psql beside it, and its memory."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time

# Longer than any start takes.
PATIENCE_SECONDS = 600


class Site:
    """A configuration and a data directory, removed at the end."""

    def __init__(self, program, append, brokers=None, partitions=1):
        self.program, self.appender = os.path.abspath(program), os.path.abspath(append)
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="tributary-bench.", dir=os.environ.get("TRIBUTARY_BENCH_DIR")))
        self.data = self.dir / "data"
        self.config = self.dir / "tributary.toml"
        log = f"partitions = {partitions}\n"
        if brokers:
            log += f'transport = "kafka"\nbrokers = "{brokers}"\ntopic = "{self.dir.name}"\n'
        self.config.write_text(f'[log]\n{log}[serve]\nlisten = "127.0.0.1:0"\n')

    def __enter__(self):
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.dir)

    def arguments(self, *command):
        return [self.program, *command, "--data-dir", self.data, "--config", self.config]

    def run(self, *command):
        """Runs the program to its end; seconds and peak memory in MiB."""
        began = time.monotonic()
        child = subprocess.Popen(self.arguments(*command), stderr=subprocess.PIPE, text=True)
        said = child.stderr.read()
        _, status, usage = os.wait4(child.pid, 0)
        if status:
            raise SystemExit(said)
        return time.monotonic() - began, usage.ru_maxrss / 1024

    def append(self, first, count, rate=None):
        """The process that appends new subscriptions; its output are the times at which the log had them."""
        numbers = [str(number) for number in (first, count, rate) if number is not None]
        return subprocess.Popen([self.appender, self.config, self.data, *numbers], stdout=subprocess.PIPE, text=True)


class Engine:
    """`tributary run` and a psql that is connected to it."""

    def __init__(self, site):
        began = time.monotonic()
        self.child = subprocess.Popen(site.arguments("run"), stderr=subprocess.PIPE, text=True)
        said = ""
        while not (found := re.search(r"port=(\d+) user=(\w+)", said)):
            line = self.child.stderr.readline()
            if not line:
                raise SystemExit(f"the engine ended:\n{said}")
            said += line
        self.start_seconds = time.monotonic() - began
        # Its messages are read on, so that it never waits for us.
        self.said = [said]
        threading.Thread(target=lambda: self.said.extend(self.child.stderr), daemon=True).start()
        environment = dict(os.environ, PGPASSWORD=(site.data / "postgres.password").read_text().strip())
        target = f"host=127.0.0.1 port={found[1]} user={found[2]} dbname=tributary"
        self.psql = subprocess.Popen(
            ["psql", "-XAtq", target], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, sql):
        """The only value that a query gives."""
        self.psql.stdin.write(sql + ";\n")
        self.psql.stdin.flush()
        answer = self.psql.stdout.readline()
        if not answer:
            raise SystemExit(f"psql got no answer; the engine said:\n{''.join(self.said)}")
        return answer.strip()

    def peak_mib(self):
        status = pathlib.Path(f"/proc/{self.child.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.psql.stdin.close()
        self.psql.wait()
        self.child.send_signal(signal.SIGTERM)
        self.child.wait(PATIENCE_SECONDS)
