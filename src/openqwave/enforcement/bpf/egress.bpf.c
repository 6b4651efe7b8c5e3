// SPDX-License-Identifier: Apache-2.0
/*
 * What becomes of a packet at the exit of an interface: marks, meter, departure time, counters.
 *
 * Look-up. A packet's socket has a cookie, which the kernel never gives twice. `sockets` says
 * whether anything is wanted of that socket: most packets miss there, after one look-up with a key
 * of eight bytes, and leave exactly as they came. Else `destinations` (socket and destination) or
 * the socket's default says which slot the packet belongs to. A slot is a flow, or a claim. User
 * space writes what is wanted of it in `treatments`, the program what came of it in `meters`. So a
 * change of a flow is one write, whatever leads there.
 *
 * Claims. While settings.generation is not 0, packets of sockets without a flow are looked at for who
 * made the socket: its user and cgroup, which the kernel knows, its executable, which the program
 * `created` (created.bpf.c) has noted in `owners`, and the run that user space has put it in there.
 * From these comes, once for a socket and generation, what is kept in `owners`: a run's slot, else a
 * word of 64 rules of which each may still have conditions on packets. The lowest whose conditions
 * hold is the one. Everything that this is worked out from stands twice, in banks 0 and 1; an even
 * generation reads one, an odd one the other. So user space writes the bank that nobody reads, and
 * one write of eight bytes brings all of it in force.
 *
 * Closed sockets. What the kernel sends for a connection that no socket has any more (the last ACK,
 * from TIME_WAIT; RST) goes by `closings`, where the socket's own FIN or RST has left a note. A slot
 * that was given to somebody else since is told by meters[].epoch.
 *
 * Meter. GCRA (ITU-T I.371): one theoretical arrival time. A packet conforms if that is at most a
 * burst ahead of now, and moves it by its own cost; so one train may overdraw, once. Bytes are IP
 * bytes: a train that the device cuts into segments counts the headers of each. Two processors at
 * one meter: who comes second adds to what the first has written, and needs no loop, which the
 * verifier would not let pass without CAP_PERFMON. At worst one packet too many conforms.
 *
 * Departure. Instead, excess may wait: a packet's time is written, and the fq queue holds it back.
 * What would leave after the horizon is dropped, as fq itself would.
 *
 * Stacks. A packet may leave by several interfaces, one upon another: VLAN, bond, bridge, tunnel.
 * It is treated at the first. skb->tc_index remembers, with a number that each loading draws anew.
 * Nothing but the gred queue looks at that field, and other packets' is not written.
 *
 * Fragments. Only the first has ports. It leaves a note for the others, which follow.
 *
 * What is not seen: the final destination of a packet with a routing header; extension headers
 * after the sixth; what is encrypted or wrapped before it is handed to the interface.
 *
 * The program keeps to what Linux 6.1 verifies and needs CAP_NET_ADMIN and CAP_BPF only. It does
 * not read what the packet holds by pointers but by helpers: they unshare what TCP keeps a copy of.
 * Built by scripts/bpf.sh. Structures are also in layout.py, with the numbers at the end of this file.
 */
#include <linux/bpf.h>

#define INLINE static inline __attribute__((always_inline))
/* Copied in words of eight bytes. */
#define WORDS __attribute__((aligned(8)))
#define SECTION(name) __attribute__((section(name), used))

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s64 s64;

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define NET16(x) ((u16)((((x) & 0xff) << 8) | (((x) >> 8) & 0xff)))
#else
#define NET16(x) ((u16)(x))
#endif

/* Helpers, by their numbers in linux/bpf.h. */
static void *(*map_lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*map_update)(void *map, const void *key, const void *value,
			  u64 flags) = (void *)BPF_FUNC_map_update_elem;
static long (*map_delete)(void *map, const void *key) = (void *)BPF_FUNC_map_delete_elem;
static u64 (*ktime_ns)(void) = (void *)BPF_FUNC_ktime_get_ns;
static u64 (*socket_cookie)(void *context) = (void *)BPF_FUNC_get_socket_cookie;
static u32 (*socket_uid)(void *skb) = (void *)BPF_FUNC_get_socket_uid;
static u64 (*ancestor_cgroup)(void *skb, int level) = (void *)BPF_FUNC_skb_ancestor_cgroup_id;
static struct bpf_sock *(*full_socket)(void *sk) = (void *)BPF_FUNC_sk_fullsock;
static struct bpf_sock *(*listener)(void *sk) = (void *)BPF_FUNC_get_listener_sock;
static void *(*storage)(void *map, void *sk, void *value,
			u64 flags) = (void *)BPF_FUNC_sk_storage_get;
static long (*load_bytes)(const void *skb, u32 at, void *to,
			  u32 length) = (void *)BPF_FUNC_skb_load_bytes;
static long (*store_bytes)(void *skb, u32 at, const void *from, u32 length,
			   u64 flags) = (void *)BPF_FUNC_skb_store_bytes;
static long (*vlan_push)(void *skb, u16 protocol, u16 tci) = (void *)BPF_FUNC_skb_vlan_push;
static long (*set_tstamp)(void *skb, u64 tstamp, u32 type) = (void *)BPF_FUNC_skb_set_tstamp;
static long (*ring_output)(void *ring, void *data, u64 size,
			   u64 flags) = (void *)BPF_FUNC_ringbuf_output;

/* TCX_NEXT and TC_ACT_UNSPEC are the same number: whoever is next decides. */
#define NEXT (-1)
#define DROP 2 /* TC_ACT_SHOT, TCX_DROP */

#define ETHERNET_BYTES 14
#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86dd
#define ETH_P_8021Q 0x8100
#define PCP_SHIFT 13
#define TOS_AT 1
#define ECN_BITS 0x03

#define TCP 6
#define UDP 17
#define DCCP 33
#define SCTP 132
#define UDPLITE 136
#define HOP_BY_HOP 0
#define ROUTING 43
#define FRAGMENT 44
#define AUTHENTICATION 51
#define DESTINATION_OPTIONS 60
/* RFC 8200 knows four that come before the transport; some senders repeat destination options. */
#define MOST_EXTENSIONS 6

/* How sockets[].flags and treatments[].flags are read. */
#define HAS_DESTINATIONS 1
#define MARK 1
#define PRIORITY 2
#define TAG 4
#define METER 8
#define DELAY 16
/* What the host tells itself is not held to the rate. */
#define NOT_ON_LOOPBACK 32
#define LOOPBACK 1 /* Every network namespace's has this number. */

#define SOCK_RAW 3
#define FIN 1
#define RST 4
/* Of a TCP header: up to its flags. */
#define TCP_HEAD_BYTES 14
#define TCP_FLAGS_AT 13

#define MOST_RULES 64
/* Control groups are looked for down to this level; systemd's services are at the second to fifth. */
#define MOST_LEVELS 16
#define NAME_BYTES 64
/* What of a socket rules ask for: banks[].asks. */
#define USERS 1
#define PROGRAMS 2
#define GROUPS 4

struct socket_entry {
	u32 default_slot; /* 0: none. Slot 0 belongs to nobody. */
	u32 flags;
};

struct destination {
	u64 cookie;
	u8 address[16] WORDS; /* IPv4 as ::ffff:a.b.c.d */
	u32 scope;	/* Interface, where the address is of one link only; 0: any. */
	u16 port;	/* As on the wire. */
	u16 zero;
};

struct treatment {
	u32 flags;
	u8 dscp;
	u8 excess_dscp;
	u8 pcp;
	u8 excess_pcp;
	u32 priority;
	u32 excess_priority;
	u64 ps_per_byte; /* Picoseconds that a byte takes. */
	u64 burst_ns;
	u64 horizon_ns;
};

struct meter {
	u64 arrival_ns; /* The theoretical arrival time, CLOCK_MONOTONIC. */
	u64 packets;	/* Conformant ones only. */
	u64 bytes;
	u64 excess_packets;
	u64 excess_bytes;
	u64 dropped_packets;
	u64 epoch; /* Another one each time that the slot is given out. */
};

struct fragment {
	u8 source[16] WORDS;
	u8 destination[16] WORDS;
	u64 cookie;
	u32 identification;
	u8 protocol;
	u8 zero[3];
};

struct settings {
	u64 generation; /* 0: nothing is looked for but sockets. The lowest bit is the bank. */
	u32 seen;	/* What this loading writes in skb->tc_index. */
	u32 zero;
};

/* Rules without a condition of a kind; and which conditions there are. */
struct bank {
	u64 any_user;
	u64 any_program;
	u64 any_group;
	u64 asks;
};

struct user {
	u32 uid;
	u32 bank;
};

struct executable {
	u64 inode; /* 0: any of that name. */
	u64 bank;
	u8 name[NAME_BYTES] WORDS; /* The first 63 bytes of the last part of its path. */
};

struct group {
	u64 id;
	u64 bank;
};

struct place {
	u64 rules;
	u64 slot; /* Of a run; 0: none. */
};

/* What is known of who made a socket; in created.bpf.c, too. */
struct owner {
	u64 generation; /* Of the two that follow; 0: never worked out. */
	u64 rules;
	u32 slot;
	u32 uid;   /* With which they were. */
	u32 asks;  /* What was looked at. */
	u32 zero;
	u64 run;   /* Where user space has put it; 0: nowhere. */
	u64 inode; /* Of the executable. */
	u8 name[NAME_BYTES] WORDS;
};

struct rule {
	u64 local[2]; /* As on the wire, and so the masks. */
	u64 local_mask[2];
	u64 remote[2];
	u64 remote_mask[2];
	u16 local_low; /* In the machine's order. */
	u16 local_high;
	u16 remote_low;
	u16 remote_high;
	u32 slot;
	u8 protocol;
	u8 protocol_mask; /* 0: any; else 255. */
	u8 ipv6_only;	  /* 1, or 0. */
	u8 zero;
};

/* A connection of TCP. */
struct connection {
	u8 source[16] WORDS;
	u8 destination[16] WORDS;
	u16 source_port;
	u16 destination_port;
	u32 zero;
};

struct closing {
	u64 epoch;
	u32 slot;
	u32 zero;
};

/* How the loader makes each map; it puts the number of entries in. */
struct map {
	u32 type;
	u32 key_bytes;
	u32 value_bytes;
};
#define MAP(name, kind, key, value) \
	struct map name SECTION("maps") = { kind, key, value }

MAP(sockets, BPF_MAP_TYPE_HASH, sizeof(u64), sizeof(struct socket_entry));
MAP(destinations, BPF_MAP_TYPE_HASH, sizeof(struct destination), sizeof(u32));
MAP(treatments, BPF_MAP_TYPE_ARRAY, sizeof(u32), sizeof(struct treatment));
MAP(meters, BPF_MAP_TYPE_ARRAY, sizeof(u32), sizeof(struct meter));
MAP(fragments, BPF_MAP_TYPE_LRU_HASH, sizeof(struct fragment), sizeof(u32));
MAP(settings, BPF_MAP_TYPE_ARRAY, sizeof(u32), sizeof(struct settings));
MAP(released, BPF_MAP_TYPE_RINGBUF, 0, 0);
MAP(owners, BPF_MAP_TYPE_SK_STORAGE, sizeof(u32), sizeof(struct owner));
MAP(banks, BPF_MAP_TYPE_ARRAY, sizeof(u32), sizeof(struct bank));
MAP(users, BPF_MAP_TYPE_HASH, sizeof(struct user), sizeof(u64));
MAP(executables, BPF_MAP_TYPE_HASH, sizeof(struct executable), sizeof(u64));
MAP(groups, BPF_MAP_TYPE_HASH, sizeof(struct group), sizeof(struct place));
MAP(attached, BPF_MAP_TYPE_HASH, sizeof(u64), sizeof(u32));
MAP(rules, BPF_MAP_TYPE_ARRAY, sizeof(u32), sizeof(struct rule));
MAP(closings, BPF_MAP_TYPE_LRU_HASH, sizeof(struct connection), sizeof(struct closing));

/* What of a packet is looked at. */
struct packet {
	u8 source[16] WORDS;
	u8 destination[16] WORDS;
	u32 identification;
	u16 source_port;
	u16 destination_port;
	u8 protocol;
	u8 traffic_class;
	u8 is_ipv6;
	u8 is_first; /* The first of several fragments. */
	u8 is_later; /* A fragment without ports. */
	u8 ends;     /* FIN or RST. */
};

/* What a packet's socket leads to, besides flows. */
struct claim {
	u64 rules;
	u32 slot;
	u32 bank;
	u8 is_closed; /* No socket has the connection. */
	u8 is_fresh;  /* It may be the first packet of a connection. */
};

struct ipv4 {
	u8 version_and_length;
	u8 tos;
	u16 bytes;
	u16 identification;
	u16 fragment;
	u8 hops;
	u8 protocol;
	u16 checksum;
	u32 source;
	u32 destination;
};

struct ipv6 {
	u8 head[4];
	u16 bytes;
	u8 next;
	u8 hops;
	u32 source[4];
	u32 destination[4];
};

/*
 * What is worked with, one for each processor, as no packet interrupts another. Little is on the
 * stack: what stands there the verifier follows value by value, a hundred times as many ways as
 * there are; and where a pointer has been, Linux 6.1 lets nothing shorter be written, without rights.
 */
struct scratch {
	struct packet packet;
	struct claim claim;
	struct fragment fragment;
	struct destination destination;
	struct executable executable;
	struct group group;
	struct user user;
	struct connection connection;
	struct closing closing;
	union {
		struct ipv4 ipv4;
		struct ipv6 ipv6;
		u8 extension[8];
		u16 transport[TCP_HEAD_BYTES / 2];
	};
};
MAP(scratches, BPF_MAP_TYPE_PERCPU_ARRAY, sizeof(u32), sizeof(struct scratch));

INLINE int has_ports(u8 protocol)
{
	return protocol == UDP || protocol == TCP || protocol == SCTP || protocol == DCCP ||
	       protocol == UDPLITE;
}

INLINE void read_ports(struct __sk_buff *skb, u32 at, struct scratch *scratch)
{
	struct packet *packet = &scratch->packet;
	u16 *head = scratch->transport;

	if (packet->protocol == TCP) {
		if (load_bytes(skb, at, head, TCP_HEAD_BYTES))
			return;
		packet->ends = ((u8 *)head)[TCP_FLAGS_AT] & (FIN | RST);
	} else if (!has_ports(packet->protocol) || load_bytes(skb, at, head, 2 * sizeof(u16))) {
		return;
	}
	packet->source_port = head[0];
	packet->destination_port = head[1];
}

INLINE int read_ipv4(struct __sk_buff *skb, u32 link, struct scratch *scratch)
{
	struct packet *packet = &scratch->packet;
	const struct ipv4 *head = &scratch->ipv4;
	u32 *source = (u32 *)packet->source, *destination = (u32 *)packet->destination;

	if (load_bytes(skb, link, &scratch->ipv4, sizeof(*head)))
		return 0;
	/* The offset is in the low 13 bits; the bit above says that more follow. */
	packet->is_later = (head->fragment & NET16(0x1fff)) != 0;
	packet->is_first = !packet->is_later && (head->fragment & NET16(0x2000));
	source[2] = destination[2] = NET16(0xffff) << (NET16(1) == 1 ? 0 : 16);
	source[3] = head->source;
	destination[3] = head->destination;
	packet->identification = head->identification;
	packet->protocol = head->protocol;
	packet->traffic_class = head->tos;
	if (!packet->is_later)
		read_ports(skb, link + (head->version_and_length & 0x0f) * 4, scratch);
	return 1;
}

INLINE int read_ipv6(struct __sk_buff *skb, u32 link, struct scratch *scratch)
{
	struct packet *packet = &scratch->packet;
	const struct ipv6 *head = &scratch->ipv6;
	const u8 *extension = scratch->extension;
	u32 *source = (u32 *)packet->source, *destination = (u32 *)packet->destination;
	u32 at = link + sizeof(*head);
	u8 next;
	int i;

	if (load_bytes(skb, link, &scratch->ipv6, sizeof(*head)))
		return 0;
	packet->is_ipv6 = 1;
	packet->traffic_class = head->head[0] << 4 | head->head[1] >> 4;
	for (i = 0; i < 4; i++) {
		source[i] = head->source[i];
		destination[i] = head->destination[i];
	}
	next = head->next;
#pragma clang loop unroll(full)
	for (i = 0; i < MOST_EXTENSIONS; i++) {
		if (next != HOP_BY_HOP && next != ROUTING && next != DESTINATION_OPTIONS &&
		    next != FRAGMENT && next != AUTHENTICATION)
			break;
		if (load_bytes(skb, at, scratch->extension, sizeof(scratch->extension)))
			break;
		if (next == FRAGMENT) {
			packet->identification = *(u32 *)(extension + 4);
			packet->is_later = extension[2] || (extension[3] & 0xf8);
			packet->is_first = !packet->is_later && (extension[3] & 1);
			at += 8;
		} else if (next == AUTHENTICATION) {
			at += (extension[1] + 2) * 4;
		} else {
			at += (extension[1] + 1) * 8;
		}
		next = extension[0];
		if (packet->is_later)
			break;
	}
	packet->protocol = next;
	if (!packet->is_later)
		read_ports(skb, at, scratch);
	return 1;
}

INLINE u32 slot_at(void *map, const void *key)
{
	u32 *slot = map_lookup(map, key);

	return slot ? *slot : 0;
}

INLINE u32 by_destination(struct __sk_buff *skb, u64 cookie, struct scratch *scratch)
{
	const struct packet *packet = &scratch->packet;
	struct destination *key = &scratch->destination;
	u32 slot;

	__builtin_memcpy(key->address, packet->destination, sizeof(key->address));
	key->cookie = cookie;
	key->port = packet->destination_port;
	key->scope = 0;
	key->zero = 0;
	/* fe80::/10 and groups (RFC 4007); the entry may leave the interface open. */
	if (packet->is_ipv6 && (key->address[0] == 0xff ||
				(key->address[0] == 0xfe && (key->address[1] & 0xc0) == 0x80))) {
		key->scope = skb->ifindex;
		slot = slot_at(&destinations, key);
		if (slot)
			return slot;
		key->scope = 0;
	}
	return slot_at(&destinations, key);
}

/* Which rules may hold for a socket, and which run it belongs to. */
INLINE void work_out(struct __sk_buff *skb, struct owner *owner, u32 uid, int is_raw,
		     struct scratch *scratch)
{
	struct claim *claim = &scratch->claim;
	const struct bank *bank = map_lookup(&banks, &claim->bank);
	struct executable *program = &scratch->executable;
	struct group *group = &scratch->group;
	struct user *user = &scratch->user;
	const struct place *place;
	const u64 *found;
	const u32 *slot;
	u64 by_user, by_program, by_group, unnamed, asks, run;
	int level;

	if (!bank)
		return;
	by_user = bank->any_user;
	by_program = bank->any_program;
	by_group = bank->any_group;
	asks = bank->asks;
	unnamed = by_program & by_group;
	if (asks & USERS) {
		user->uid = uid;
		user->bank = claim->bank;
		found = map_lookup(&users, user);
		if (found)
			by_user |= *found;
	}
	if (asks & GROUPS) {
		group->bank = claim->bank;
#pragma clang loop unroll(full)
		for (level = 0; level < MOST_LEVELS; level++) {
			group->id = ancestor_cgroup(skb, level);
			if (!group->id)
				break;
			place = map_lookup(&groups, group);
			if (place) {
				by_group |= place->rules;
				if (place->slot)
					claim->slot = place->slot;
			}
		}
	}
	if (owner) {
		if ((asks & PROGRAMS) && owner->name[0]) {
			program->inode = owner->inode;
			program->bank = claim->bank;
			__builtin_memcpy(program->name, owner->name, NAME_BYTES);
			found = map_lookup(&executables, program);
			if (found)
				by_program |= *found;
			program->inode = 0;
			found = map_lookup(&executables, program);
			if (found)
				by_program |= *found;
		}
		run = owner->run;
		if (run) {
			slot = map_lookup(&attached, &run);
			if (slot)
				claim->slot = *slot;
		}
	}
	claim->rules = by_user & by_program & by_group;
	/* The kernel answers pings by a raw socket that nobody has made. */
	if (is_raw)
		claim->rules &= ~unnamed;
	if (owner) {
		owner->rules = claim->rules;
		owner->slot = claim->slot;
		owner->uid = uid;
		owner->asks = asks;
	}
}

/* Where a socket leads by who made it. */
INLINE void claim_of(struct __sk_buff *skb, u64 generation, struct scratch *scratch)
{
	struct claim *claim = &scratch->claim;
	struct bpf_sock *socket = skb->sk, *full;
	struct owner *owner;
	u32 uid;
	int is_raw;

	claim->bank = generation & 1;
	if (!socket) {
		claim->is_closed = 1;
		return;
	}
	full = full_socket(socket);
	if (!full) {
		/* What is answered for a listener, or a connection that is over. */
		socket = skb->sk;
		full = socket ? listener(socket) : 0;
		if (!full) {
			claim->is_closed = 1;
			return;
		}
		claim->is_fresh = 1;
	}
	is_raw = full->type == SOCK_RAW;
	if (is_raw && full->protocol == TCP) {
		/* The kernel's own, for connections without a socket. */
		claim->is_closed = 1;
		return;
	}
	/* None where memory is short: then all is worked out each time. */
	owner = storage(&owners, full, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (owner && owner->generation == generation) {
		/* A listener's user may not be the one who accepts. */
		if (!(owner->asks & USERS) || owner->uid == socket_uid(skb)) {
			claim->rules = owner->rules;
			claim->slot = owner->slot;
			return;
		}
	}
	claim->is_fresh = 1;
	uid = socket_uid(skb);
	work_out(skb, owner, uid, is_raw, scratch);
	/* The last, and after all others for who reads it on another processor. */
	if (owner)
		__sync_val_compare_and_swap(&owner->generation, owner->generation, generation);
}

/* What of an address is not as a network has it; 0 if it is within. */
INLINE u64 outside(const u8 *address, const u64 *network, const u64 *mask)
{
	const u64 *words = (const u64 *)address;

	return ((words[0] & mask[0]) ^ network[0]) | ((words[1] & mask[1]) ^ network[1]);
}

/* 0 where a packet meets the conditions of a rule; without branches, of which each is a way more. */
INLINE u64 misfit(const struct rule *rule, const struct packet *packet)
{
	s64 local = NET16(packet->source_port), remote = NET16(packet->destination_port);
	u64 found = (rule->protocol ^ packet->protocol) & rule->protocol_mask;

	found |= rule->ipv6_only & ~packet->is_ipv6;
	/* A negative number has bits above those of a port. */
	found |= (u64)(local - rule->local_low) >> 16;
	found |= (u64)(rule->local_high - local) >> 16;
	found |= (u64)(remote - rule->remote_low) >> 16;
	found |= (u64)(rule->remote_high - remote) >> 16;
	found |= outside(packet->source, rule->local, rule->local_mask);
	return found | outside(packet->destination, rule->remote, rule->remote_mask);
}

/*
 * The slot of the first rule whose conditions a packet meets. Written out: of a loop the verifier
 * would follow a processor that foresees its end wrongly, over and over.
 */
#define ONE                                                       \
	if (!left)                                                \
		return 0;                                         \
	if (left & 1) {                                           \
		const struct rule *rule = map_lookup(&rules, &index); \
		if (!rule)                                        \
			return 0;                                 \
		if (!misfit(rule, packet))                        \
			return rule->slot;                        \
	}                                                         \
	left >>= 1;                                               \
	index++;
#define FOUR ONE ONE ONE ONE
#define SIXTEEN FOUR FOUR FOUR FOUR
INLINE u32 by_rules(u64 left, u32 bank, const struct packet *packet)
{
	u32 index = bank * MOST_RULES;

	SIXTEEN SIXTEEN SIXTEEN SIXTEEN
	return 0;
}

INLINE struct connection *connection_of(struct scratch *scratch)
{
	const struct packet *packet = &scratch->packet;
	struct connection *key = &scratch->connection;

	__builtin_memcpy(key->source, packet->source, sizeof(key->source));
	__builtin_memcpy(key->destination, packet->destination, sizeof(key->destination));
	key->source_port = packet->source_port;
	key->destination_port = packet->destination_port;
	key->zero = 0;
	return key;
}

/* The slot of a connection that no socket has any more. */
INLINE u32 by_closing(struct scratch *scratch)
{
	const struct closing *closing = map_lookup(&closings, connection_of(scratch));
	const struct meter *meter;
	u32 slot;
	u64 epoch;

	if (!closing)
		return 0;
	slot = closing->slot;
	epoch = closing->epoch;
	meter = map_lookup(&meters, &slot);
	return meter && meter->epoch == epoch ? slot : 0;
}

/* Leave a note for what the kernel will send when the socket is gone, or take away an older one's. */
INLINE void note_closing(struct scratch *scratch, u32 slot)
{
	struct connection *key = connection_of(scratch);
	struct closing *closing = &scratch->closing;
	const struct meter *meter;

	if (!slot) {
		map_delete(&closings, key);
		return;
	}
	meter = map_lookup(&meters, &slot);
	if (!meter)
		return;
	closing->epoch = meter->epoch;
	closing->slot = slot;
	closing->zero = 0;
	map_update(&closings, key, closing, BPF_ANY);
}

/* The slot of a packet that may have one; reads the packet. 0: none. */
INLINE u32 find(struct __sk_buff *skb, u32 link, u64 cookie, u32 default_slot, u32 flags,
		u64 generation, struct scratch *scratch)
{
	struct packet *packet = &scratch->packet;
	const struct claim *claim = &scratch->claim;
	struct fragment *key = &scratch->fragment;
	u32 slot = 0;

	if (skb->protocol == NET16(ETH_P_IP)) {
		if (!read_ipv4(skb, link, scratch))
			return 0;
	} else if (skb->protocol == NET16(ETH_P_IPV6)) {
		if (!read_ipv6(skb, link, scratch))
			return 0;
	} else {
		return 0;
	}
	if (packet->is_first || packet->is_later) {
		__builtin_memcpy(key->source, packet->source, sizeof(key->source));
		__builtin_memcpy(key->destination, packet->destination, sizeof(key->destination));
		key->cookie = cookie;
		key->identification = packet->identification;
		key->protocol = packet->protocol;
		key->zero[0] = key->zero[1] = key->zero[2] = 0;
	}
	if (packet->is_later)
		slot = slot_at(&fragments, key);
	else if (flags & HAS_DESTINATIONS)
		slot = by_destination(skb, cookie, scratch);
	if (!slot)
		slot = default_slot;
	if (!slot && generation) {
		if (claim->is_closed)
			return packet->protocol == TCP ? by_closing(scratch) : 0;
		slot = claim->slot;
		if (!slot)
			slot = by_rules(claim->rules, claim->bank, packet);
	}
	if (packet->is_first) {
		if (slot)
			map_update(&fragments, key, &slot, BPF_ANY);
		else
			/* Its number came before, in a flow that may have ended since. */
			map_delete(&fragments, key);
	}
	if (generation && packet->protocol == TCP && (slot ? packet->ends : claim->is_fresh))
		note_closing(scratch, slot);
	return slot;
}

INLINE void mark(struct __sk_buff *skb, u32 link, const struct packet *packet, u8 dscp)
{
	u8 wanted = dscp << 2 | (packet->traffic_class & ECN_BITS);
	u16 words[6], before;
	u8 head[2];
	u32 sum;

	if (wanted == packet->traffic_class)
		return;
	if (!packet->is_ipv6) {
		/*
		 * From the version to the checksum in one piece, because each call that writes costs
		 * more than all the rest here. The checksum is brought along as in RFC 1624, so the
		 * sum of the header stays what it was, and so does that of the whole packet.
		 */
		if (load_bytes(skb, link, words, sizeof(words)))
			return;
		before = words[0];
		((u8 *)words)[TOS_AT] = wanted;
		sum = (u16)~words[5] + (u16)~before + words[0];
		sum = (sum & 0xffff) + (sum >> 16);
		sum = (sum & 0xffff) + (sum >> 16);
		words[5] = ~sum;
		store_bytes(skb, link, words, sizeof(words), 0);
		return;
	}
	/* Four bits of version before, the first four of the flow label after it. */
	if (load_bytes(skb, link, head, sizeof(head)))
		return;
	head[0] = 0x60 | wanted >> 4;
	head[1] = (wanted << 4) | (head[1] & 0x0f);
	store_bytes(skb, link, head, sizeof(head), BPF_F_RECOMPUTE_CSUM);
}

/* Move a theoretical arrival time from `seen` to `next`, or by `cost` where another was faster. */
INLINE u64 advance(struct meter *meter, u64 seen, u64 next, u64 cost)
{
	if (__sync_val_compare_and_swap(&meter->arrival_ns, seen, next) == seen)
		return seen;
	return __sync_fetch_and_add(&meter->arrival_ns, cost);
}

INLINE int treat(struct __sk_buff *skb, u32 link, int may_tag, u32 slot,
		 const struct packet *packet)
{
	const struct treatment *wanted = map_lookup(&treatments, &slot);
	struct meter *meter = map_lookup(&meters, &slot);
	u32 flags, segments = skb->gso_segs ? skb->gso_segs : 1;
	u64 now, seen, start, cost, bytes = skb->wire_len - segments * link;
	u32 dscp, excess_dscp, pcp, excess_pcp, priority, excess_priority;

	if (!wanted || !meter)
		return NEXT;
	flags = wanted->flags;
	dscp = wanted->dscp;
	excess_dscp = wanted->excess_dscp;
	pcp = wanted->pcp;
	excess_pcp = wanted->excess_pcp;
	priority = wanted->priority;
	excess_priority = wanted->excess_priority;
	/*
	 * Read all of them here: else the compiler computes where to read, which the verifier
	 * forbids without CAP_PERFMON.
	 */
	asm volatile("" : "+r"(dscp), "+r"(excess_dscp), "+r"(pcp), "+r"(excess_pcp),
		     "+r"(priority), "+r"(excess_priority));
	if ((flags & NOT_ON_LOOPBACK) && skb->ifindex == LOOPBACK)
		flags &= ~(METER | DELAY);
	if (flags & (METER | DELAY)) {
		now = ktime_ns();
		cost = bytes * wanted->ps_per_byte / 1000;
		seen = *(volatile u64 *)&meter->arrival_ns;
		start = seen > now ? seen : now;
		if (flags & METER) {
			if (start - now > wanted->burst_ns)
				goto excess;
			advance(meter, seen, start + cost, cost);
		} else {
			if (start - now > wanted->horizon_ns) {
				__sync_fetch_and_add(&meter->dropped_packets, segments);
				return DROP;
			}
			seen = advance(meter, seen, start + cost, cost);
			start = seen > now ? seen : now;
			/* Whoever sends may have named a later time. */
			if (skb->tstamp_type != BPF_SKB_TSTAMP_DELIVERY_MONO || skb->tstamp < start)
				set_tstamp(skb, start, BPF_SKB_TSTAMP_DELIVERY_MONO);
		}
	}
	__sync_fetch_and_add(&meter->packets, segments);
	__sync_fetch_and_add(&meter->bytes, bytes);
	goto apply;
excess:
	__sync_fetch_and_add(&meter->excess_packets, segments);
	__sync_fetch_and_add(&meter->excess_bytes, bytes);
	flags |= MARK | PRIORITY;
	dscp = excess_dscp;
	priority = excess_priority;
	pcp = excess_pcp;
apply:
	if (flags & MARK)
		mark(skb, link, packet, dscp);
	if (flags & PRIORITY)
		skb->priority = priority;
	if (may_tag && (flags & TAG) && !skb->vlan_present)
		vlan_push(skb, NET16(ETH_P_8021Q), (u16)(pcp << PCP_SHIFT));
	return NEXT;
}

INLINE int run(struct __sk_buff *skb, u32 link, int may_tag)
{
	u32 zero = 0, slot, default_slot = 0, flags = 0, seen;
	u64 generation, cookie = socket_cookie(skb);
	const struct socket_entry *entry = map_lookup(&sockets, &cookie);
	const struct settings *now = map_lookup(&settings, &zero);
	struct scratch *scratch;

	/* Numbers instead of pointers from here on: Linux 6.1 minds where those were, without rights. */
	if (!now)
		return NEXT;
	generation = now->generation;
	seen = now->seen;
	if (entry) {
		default_slot = entry->default_slot;
		flags = entry->flags;
	} else if (!generation) {
		return NEXT;
	}
	if (skb->tc_index == seen)
		return NEXT;
	scratch = map_lookup(&scratches, &zero);
	if (!scratch)
		return NEXT;
	__builtin_memset(&scratch->packet, 0, sizeof(scratch->packet));
	__builtin_memset(&scratch->claim, 0, sizeof(scratch->claim));
	if (generation && !default_slot) {
		claim_of(skb, generation, scratch);
		if (!flags && !scratch->claim.slot && !scratch->claim.rules &&
		    !scratch->claim.is_fresh &&
		    /* Forwarded. */
		    (!scratch->claim.is_closed || skb->ingress_ifindex))
			return NEXT;
	}
	slot = find(skb, link, cookie, default_slot, flags, generation, scratch);
	if (!slot)
		return NEXT;
	skb->tc_index = seen;
	return treat(skb, link, may_tag, slot, &scratch->packet);
}

/* Interfaces with an Ethernet header, where a priority tag may go. */
SECTION("tc/egress") int egress(struct __sk_buff *skb)
{
	return run(skb, ETHERNET_BYTES, 1);
}

/* Those where none may: loopback, and what has tags of its own. */
SECTION("tc/egress_untagged") int egress_untagged(struct __sk_buff *skb)
{
	return run(skb, ETHERNET_BYTES, 0);
}

/* Those whose packets begin with the IP header. */
SECTION("tc/egress_raw") int egress_raw(struct __sk_buff *skb)
{
	return run(skb, 0, 0);
}

/*
 * A socket is closed: say so if anything was wanted of it. TCP may have data to send for a while,
 * so its entry stays until user space is told that the kernel has let go of the socket.
 */
SECTION("cgroup/release") int release(struct bpf_sock *sock)
{
	u64 cookie = socket_cookie(sock);
	struct meter *meter;
	u32 zero = 0;

	if (!map_lookup(&sockets, &cookie))
		return 1;
	if (ring_output(&released, &cookie, sizeof(cookie), 0)) {
		meter = map_lookup(&meters, &zero);
		if (meter)
			__sync_fetch_and_add(&meter->dropped_packets, 1);
	}
	if (sock->protocol != TCP)
		map_delete(&sockets, &cookie);
	return 1;
}

/* Sizes and offsets as they are here; the loader compares them with its own. */
#define AT(type, field) __builtin_offsetof(struct type, field)
const u32 sizes_and_offsets[] SECTION("layout") = {
	sizeof(struct socket_entry), AT(socket_entry, default_slot), AT(socket_entry, flags),
	sizeof(struct destination), AT(destination, cookie), AT(destination, address),
	AT(destination, scope), AT(destination, port),
	sizeof(struct treatment), AT(treatment, flags), AT(treatment, dscp),
	AT(treatment, excess_dscp), AT(treatment, pcp), AT(treatment, excess_pcp),
	AT(treatment, priority), AT(treatment, excess_priority), AT(treatment, ps_per_byte),
	AT(treatment, burst_ns), AT(treatment, horizon_ns),
	sizeof(struct meter), AT(meter, arrival_ns), AT(meter, packets), AT(meter, bytes),
	AT(meter, excess_packets), AT(meter, excess_bytes), AT(meter, dropped_packets),
	AT(meter, epoch),
	sizeof(struct fragment),
	sizeof(struct settings), AT(settings, generation), AT(settings, seen),
	sizeof(struct bank), AT(bank, any_user), AT(bank, any_program), AT(bank, any_group),
	AT(bank, asks),
	sizeof(struct user), AT(user, uid), AT(user, bank),
	sizeof(struct executable), AT(executable, inode), AT(executable, bank),
	AT(executable, name),
	sizeof(struct group), AT(group, id), AT(group, bank),
	sizeof(struct place), AT(place, rules), AT(place, slot),
	sizeof(struct owner), AT(owner, generation), AT(owner, run), AT(owner, inode),
	AT(owner, name),
	sizeof(struct rule), AT(rule, local), AT(rule, local_mask), AT(rule, remote),
	AT(rule, remote_mask), AT(rule, local_low), AT(rule, local_high), AT(rule, remote_low),
	AT(rule, remote_high), AT(rule, slot), AT(rule, protocol), AT(rule, protocol_mask),
	AT(rule, ipv6_only),
	sizeof(struct connection), sizeof(struct closing),
};

/* None of the helpers asks for the GPL. */
const char licensed[] SECTION("license") = "Apache-2.0";
