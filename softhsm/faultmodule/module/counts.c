/* Counters that all processes share, in a file that is mapped into memory:
 *
 *	16 bytes            "faultmodule 1\n", zero bytes
 *	64 bytes, 68 times  one for each function, in the order of CK_FUNCTION_LIST:
 *	                    its name in 40 bytes, then three numbers of 8 bytes:
 *	                    calls, questions for a size, calls that an order changed
 *	16 bytes, 4096 times  an order with times=: its name, how often it was obeyed
 *
 * Numbers are in the byte order of the machine. Nothing else is ever written.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "faultmodule.h"

#define MAX_USED 4096

struct counts {
	char magic[16];
	struct {
		char name[40];
		_Atomic uint64_t calls, sizes, ordered;
	} functions[FN_COUNT];
	struct {
		_Atomic uint64_t key, n;
	} used[MAX_USED];
};

_Static_assert(sizeof(struct counts) == 16 + 64 * FN_COUNT + 16 * MAX_USED, "the layout is as described");

static const char magic[16] = "faultmodule 1\n";
static struct counts *counts;

/* prepare makes an empty file what it is to be, under its lock. */
static bool prepare(int fd)
{
	struct stat st;
	if (flock(fd, LOCK_EX) != 0 || fstat(fd, &st) != 0)
		return false;
	if (st.st_size != 0 && st.st_size != (off_t)sizeof *counts) {
		errno = EINVAL;
		return false;
	}
	if (ftruncate(fd, sizeof *counts) != 0)
		return false;
	counts = mmap(NULL, sizeof *counts, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (counts == MAP_FAILED)
		return false;
	if (st.st_size == 0) {
		memcpy(counts->magic, magic, sizeof magic);
		for (int i = 0; i < FN_COUNT; i++)
			strncpy(counts->functions[i].name, function_info[i].name, sizeof counts->functions[i].name - 1);
	}
	errno = EINVAL;
	return memcmp(counts->magic, magic, sizeof magic) == 0;
}

bool counts_open(const char *path)
{
	if (!path) {
		counts = mmap(NULL, sizeof *counts, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		return counts != MAP_FAILED;
	}
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	bool ok = fd >= 0 && prepare(fd);
	if (!ok)
		complain("%s: %s", path, strerror(errno));
	if (fd >= 0) {
		flock(fd, LOCK_UN); /* the mapping would keep it */
		close(fd);
	}
	return ok;
}

void counts_call(enum function fn, bool size)
{
	atomic_fetch_add(size ? &counts->functions[fn].sizes : &counts->functions[fn].calls, 1);
}

void counts_ordered(enum function fn) { atomic_fetch_add(&counts->functions[fn].ordered, 1); }

_Atomic uint64_t *counts_used(uint64_t key)
{
	for (uint64_t i = 0; i < MAX_USED; i++) {
		uint64_t at = (key + i) % MAX_USED, free = 0;
		if (atomic_compare_exchange_strong(&counts->used[at].key, &free, key) || free == key)
			return &counts->used[at].n;
	}
	return NULL;
}
