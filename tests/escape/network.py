"""Attempts at networks, and at processes through sockets."""

from __future__ import annotations

from tests.escape.attempt import Attempt, attempts

_LOOPBACK = attempts(
    "network",
    connect_to_a_server_of_this_machine="""
        with socket.create_connection(("127.0.0.1", facts["port"]), 3) as line:
            escaped(has_token(line.recv(100)))
    """,
    send_a_datagram_to_this_machine="""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.settimeout(3)
            sender.sendto(b"x", ("127.0.0.1", facts["datagram_port"]))
            escaped(has_token(sender.recv(100)))
    """,
    connect_to_an_abstract_socket="""
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(b"\\0" + facts["abstract"].encode())
            escaped(has_token(line.recv(100)))
    """,
    list_the_connections_of_this_machine="""
        port = "%04X" % facts["port"]
        escaped(port in read("/proc/net/tcp").decode())
    """,
    list_the_sockets_of_this_machine='escaped(facts["abstract"].encode() in read("/proc/net/unix"))',
    send_a_datagram_to_an_abstract_socket="""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.connect(b"\\0" + facts["abstract"].encode() + b"-datagram")
            sender.send(b"x")
            escaped()
    """,
)

_PATHS = attempts(
    "empty root",
    connect_to_a_socket_by_its_path="""
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(facts["path_socket"])
            escaped(has_token(line.recv(100)))
    """,
    get_a_descriptor_from_a_process_of_the_user="""
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(facts["path_socket"])
            _, descriptors, _, _ = socket.recv_fds(line, 100, 1)
            os.lseek(descriptors[0], 0, 0)
            escaped(has_token(os.read(descriptors[0], 100)))
    """,
)

_IPV6 = attempts(
    "network",
    needs="ipv6",
    connect_to_a_server_of_this_machine_by_IPv6="""
        with socket.create_connection(("::1", facts["port_6"]), 3) as line:
            escaped(has_token(line.recv(100)))
    """,
)

# Without walls, there is a way; whether anyone answers does not matter.
_ROUTES = attempts(
    "network",
    needs="route",
    reach_the_address_of_cloud_metadata="""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.connect(("169.254.169.254", 80))
            escaped()
    """,
    reach_a_name_server="""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.connect((facts["name_server"], 53))
            escaped()
    """,
    reach_the_internet="""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.connect((facts["far"], 9))
            escaped()
    """,
    connect_to_the_address_of_this_machine="""
        with socket.create_connection((facts["address"], facts["port_everywhere"]), 3) as line:
            escaped(has_token(line.recv(100)))
    """,
    see_the_interfaces_of_this_machine="""
        escaped(any(name != "lo" for _, name in socket.if_nameindex()))
    """,
)

_FAMILIES = (
    *attempts(
        "seccomp",
        needs="vsock",
        open_a_socket_to_the_hypervisor="socket.socket(40, socket.SOCK_STREAM).close(); escaped()",
    ),
    *attempts(
        "seccomp",
        needs="alg",
        open_a_socket_to_the_ciphers_of_the_kernel="socket.socket(38, 5).close(); escaped()",
    ),
    *attempts(
        "seccomp",
        open_a_socket_to_the_firewall="socket.socket(16, 3, 12).close(); escaped()",
        list_the_sockets_of_the_kernel="socket.socket(16, 3, 4).close(); escaped()",
        listen_to_the_devices_of_the_kernel="socket.socket(16, 3, 15).close(); escaped()",
    ),
    *attempts(
        "seccomp",
        needs="udplite",
        load_the_driver_of_a_protocol="socket.socket(2, 2, 136).close(); escaped()",
    ),
    *attempts(
        "seccomp",
        root=True,
        read_all_packets="socket.socket(17, socket.SOCK_RAW, 0x300).close(); escaped()",
        forge_packets="socket.socket(2, socket.SOCK_RAW, 255).close(); escaped()",
        ping_from_a_raw_socket="socket.socket(2, socket.SOCK_RAW, 1).close(); escaped()",
    ),
)

ATTEMPTS: tuple[Attempt, ...] = (*_LOOPBACK, *_PATHS, *_IPV6, *_ROUTES, *_FAMILIES)
