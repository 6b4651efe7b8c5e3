// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Which program makes a socket: noted with the socket, before its first packet.
 *
 * It runs whenever a process makes a socket of IPv4 or IPv6, and reads the file that the process
 * runs: the last part of its name, and its inode's number. What connections a listener accepts the
 * kernel copies from the listener.
 *
 * Where the fields are in the kernel's structures user space has read from the kernel's own
 * description of types, and written in `places`. Reading them needs CAP_PERFMON, and the helpers that
 * do are for programs under the GPL only; so this one, which stands alone, may be had under it, too.
 * Without it rules that name no program work all the same.
 *
 * Built by scripts/bpf.sh. `struct owner` is egress.bpf.c's.
 */
#include <linux/bpf.h>

#define SECTION(name) __attribute__((section(name), used))

typedef __u8 u8;
typedef __u32 u32;
typedef __u64 u64;

/* Helpers, by their numbers in linux/bpf.h. */
static void *(*map_lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static void *(*storage)(void *map, void *sk, void *value,
			u64 flags) = (void *)BPF_FUNC_sk_storage_get;
static u64 (*current_task)(void) = (void *)BPF_FUNC_get_current_task;
static long (*read_kernel)(void *to, u32 bytes, const void *from) =
	(void *)BPF_FUNC_probe_read_kernel;
static long (*read_text)(void *to, u32 bytes, const void *from) =
	(void *)BPF_FUNC_probe_read_kernel_str;

#define NAME_BYTES 64

struct owner {
	u64 generation;
	u64 rules;
	u32 slot;
	u32 uid;
	u32 asks;
	u32 zero;
	u64 run;
	u64 inode;
	u8 name[NAME_BYTES] __attribute__((aligned(8)));
};

/* Where fields are, in bytes. */
struct places {
	u32 mm;	       /* task_struct */
	u32 file;      /* mm_struct.exe_file */
	u32 inode;     /* file.f_inode */
	u32 number;    /* inode.i_ino */
	u32 directory; /* file.f_path.dentry */
	u32 name;      /* dentry.d_name.name */
};

struct map {
	u32 type;
	u32 key_bytes;
	u32 value_bytes;
};
#define MAP(name, kind, key, value) \
	struct map name SECTION("maps") = { kind, key, value }

MAP(owners, BPF_MAP_TYPE_SK_STORAGE, sizeof(u32), sizeof(struct owner));
MAP(places, BPF_MAP_TYPE_ARRAY, sizeof(u32), sizeof(struct places));

static inline __attribute__((always_inline)) u64 follow(u64 from, u32 offset)
{
	u64 found = 0;

	if (!from || read_kernel(&found, sizeof(found), (void *)(from + offset)))
		return 0;
	return found;
}

SECTION("cgroup/create") int created(struct bpf_sock *socket)
{
	u32 zero = 0;
	const struct places *at = map_lookup(&places, &zero);
	struct owner *owner;
	u64 file, number, name;

	if (!at)
		return 1;
	/* Threads of the kernel have no memory of their own, hence no file. */
	file = follow(follow(current_task(), at->mm), at->file);
	number = follow(follow(file, at->inode), at->number);
	name = follow(follow(file, at->directory), at->name);
	if (!number || !name)
		return 1;
	owner = storage(&owners, socket, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!owner)
		return 1;
	owner->inode = number;
	read_text(owner->name, sizeof(owner->name), (void *)name);
	return 1;
}

#define AT(type, field) __builtin_offsetof(struct type, field)
const u32 sizes_and_offsets[] SECTION("layout") = {
	sizeof(struct owner), AT(owner, generation), AT(owner, run), AT(owner, inode),
	AT(owner, name),
	sizeof(struct places), AT(places, mm), AT(places, file), AT(places, inode),
	AT(places, number), AT(places, directory), AT(places, name),
};

const char licensed[] SECTION("license") = "GPL";
