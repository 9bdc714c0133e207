/* Reads orders from standard input and says what is wrong with them. */
#include <stdio.h>
#include <unistd.h>

#include "faultmodule.h"

int main(void)
{
	static char text[MAX_FILE + 1];
	char why[160];
	size_t n = fread(text, 1, sizeof text, stdin);
	struct orders *o = orders_parse(text, n, why, sizeof why);
	if (!o) {
		fprintf(stderr, "%s\n", why);
		return 1;
	}
	orders_free(o);
	return 0;
}
