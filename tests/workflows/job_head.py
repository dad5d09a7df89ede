"""A Ray head with its job server on loopback, for as long as its standard input is open. ``python job_head.py FOLDER``

Prints the address of the job server. A line on its standard input is a PYTHONPATH for one more node; the next, empty
one takes that node away; each is answered by a line. It is a process of its own, as a cluster is: with its own
environment, and its files in a folder that a test can search.
"""

import os
import socket
import sys
from pathlib import Path

from ray._private.utils import write_ray_address
from ray.cluster_utils import Cluster


def free_ports(count):
    """Ports that nobody listens at; Ray's own choice is the same for all clusters of a machine."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def main(folder):
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # jobs call python
    dashboard, agent = free_ports(2)
    head = {"num_cpus": 2, "include_dashboard": True, "dashboard_host": "127.0.0.1", "dashboard_port": dashboard}
    head |= {"dashboard_agent_listen_port": agent, "temp_dir": folder}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    write_ray_address(cluster.head_node.gcs_address, folder)  # or jobs would take any other Ray of this machine
    print(f"http://127.0.0.1:{dashboard}", flush=True)  # noqa: T201
    node = None
    for line in sys.stdin:
        if node is None:
            node = cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": line.strip()})
            cluster.wait_for_nodes()
        else:
            cluster.remove_node(node)
            node = None
        print("done", flush=True)  # noqa: T201
    cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
