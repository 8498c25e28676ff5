#!/usr/bin/env python3
"""Frames of every shape that the UDP guard must stop, and a counter of what arrives. Raw sockets only.

receive                 counts datagrams by shape until standard input ends, then prints them as JSON
send IFACE COUNT        puts COUNT frames of each shape on IFACE (addresses and MACs as in tests/host_guard.rs)
emit COUNT              sends COUNT datagrams to the SIP ports from here, by raw IP; prints how many were refused
"""
import json, select, socket, struct, sys, threading

MAC_C, MAC_D = bytes.fromhex("020000000c01"), bytes.fromhex("020000000d01")
V4_C, V4_D = socket.inet_aton("10.99.0.1"), socket.inet_aton("10.99.0.2")
V6_C, V6_D = (socket.inet_pton(socket.AF_INET6, a) for a in ("fd99::1", "fd99::2"))
PROTOCOLS = {"udp": 17, "udplite": 136, "sctp": 132, "dccp": 33}


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def transport(protocol, port, shape):
    """Ports first, as in all four protocols; the shape's name as the payload."""
    payload = f"shape:{shape};".encode().ljust(48, b".")
    if protocol == "udp":
        return struct.pack("!HHHH", 40000, port, 8 + len(payload), 0) + payload
    if protocol == "udplite":
        return struct.pack("!HHHH", 40000, port, 8, 1) + payload
    return struct.pack("!HHII", 40000, port, 0, 0) + payload


def ipv4(protocol, body, options=b"", ident=1, flags_offset=0):
    words = 5 + len(options) // 4
    head = struct.pack("!BBHHHBBH4s4s", 0x40 | words, 0, words * 4 + len(body), ident, flags_offset, 64,
                       PROTOCOLS[protocol], 0, V4_C, V4_D) + options
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body


def ipv6(next_header, body):
    return struct.pack("!IHBB16s16s", 0x60000000, len(body), next_header, 64, V6_C, V6_D) + body


def extension(next_header):
    """Eight bytes: PadN of four."""
    return struct.pack("!BBBB4x", next_header, 0, 1, 4)


def fragment6(next_header, offset, more, ident):
    return struct.pack("!BBHI", next_header, 0, offset << 3 | more, ident)


def ethernet(kind, packet, tags=()):
    head = MAC_D + MAC_C
    for tag_kind, vlan in tags:
        head += struct.pack("!HH", tag_kind, vlan)
    return head + struct.pack("!H", kind) + packet


def shapes(n):
    """Name and frames of each shape; n tells fragments of one datagram from those of another."""
    out = {}
    v4 = lambda packet, tags=(): ethernet(0x0800, packet, tags)
    v6 = lambda packet, tags=(): ethernet(0x86DD, packet, tags)
    for name, number in PROTOCOLS.items():
        for port in (5060, 5061):
            shape = f"{name}4-{port}"
            out[shape] = [v4(ipv4(name, transport(name, port, shape)))]
            shape = f"{name}6-{port}"
            out[shape] = [v6(ipv6(number, transport(name, port, shape)))]
    udp = lambda shape, port=5060: transport("udp", port, shape)
    out["udp4-options"] = [v4(ipv4("udp", udp("udp4-options"), options=b"\x01" * 4))]
    out["udp6-destopts"] = [v6(ipv6(60, extension(17) + udp("udp6-destopts")))]
    out["udp6-hopbyhop"] = [v6(ipv6(0, extension(17) + udp("udp6-hopbyhop")))]
    out["udp6-both"] = [v6(ipv6(0, extension(60) + extension(17) + udp("udp6-both")))]
    whole = udp("udp4-fragments")
    out["udp4-fragments"] = [v4(ipv4("udp", whole[:24], ident=1000 + n, flags_offset=0x2000)),
                             v4(ipv4("udp", whole[24:], ident=1000 + n, flags_offset=3))]
    whole = udp("udp6-fragments")
    out["udp6-fragments"] = [v6(ipv6(44, fragment6(17, 0, 1, 1000 + n) + whole[:24])),
                             v6(ipv6(44, fragment6(17, 3, 0, 1000 + n) + whole[24:]))]
    # The last fragment alone: its first bytes look like the port, or not. It can never become a datagram.
    out["udp4-later-alike"] = [v4(ipv4("udp", udp("udp4-later-alike"), ident=3000 + n, flags_offset=100))]
    out["udp4-later-other"] = [v4(ipv4("udp", b"z" * 32, ident=4000 + n, flags_offset=100))]
    # VLAN 0 is only a priority: the kernel delivers it. VLAN 5 and double tags need a device, which is not there.
    for family, make in (("4", lambda s: (v4, ipv4("udp", udp(s)))), ("6", lambda s: (v6, ipv6(17, udp(s))))):
        for suffix, tags in (("vlan0", [(0x8100, 0)]), ("vlan5", [(0x8100, 5)]),
                             ("qinq", [(0x88A8, 7), (0x8100, 5)])):
            shape = f"udp{family}-{suffix}"
            frame, packet = make(shape)
            out[shape] = [frame(packet, tags)]
    out["udp4-elsewhere"] = [v4(ipv4("udp", udp("udp4-elsewhere", 5999)))]
    out["udp6-elsewhere"] = [v6(ipv6(17, udp("udp6-elsewhere", 5999)))]
    return out


def send(interface, count):
    door = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    door.bind((interface, 0))
    for n in range(count):
        for frames in shapes(n).values():
            for frame in frames:
                door.send(frame)
    print(json.dumps(sorted(shapes(0))))


def receive():
    doors = [socket.socket(family, socket.SOCK_RAW, number)
             for family in (socket.AF_INET, socket.AF_INET6) for number in PROTOCOLS.values()]
    for door in doors:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    print("ready", flush=True)
    counts = {}

    def drain(wait):
        while True:
            ready = select.select(doors, [], [], wait)[0]
            for door in ready:
                data = door.recv(65535)
                if b"shape:" in data:
                    shape = data.split(b"shape:", 1)[1].split(b";", 1)[0].decode()
                    counts[shape] = counts.get(shape, 0) + 1
            if not ready:
                return

    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    while not ended.is_set():
        drain(0.02)
    drain(0.2)
    print(json.dumps(counts))


def emit(count):
    refused = {"4": 0, "6": 0}
    four = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
    six = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_UDP)
    for _ in range(count):
        for door, name, address in ((four, "4", ("10.99.0.1", 0)), (six, "6", ("fd99::1", 0))):
            try:
                door.sendto(transport("udp", 5060, f"out{name}"), address)
            except PermissionError:
                refused[name] += 1
    print(json.dumps(refused))


if __name__ == "__main__":
    {"receive": receive,
     "send": lambda: send(sys.argv[2], int(sys.argv[3])),
     "emit": lambda: emit(int(sys.argv[2]))}[sys.argv[1]]()
