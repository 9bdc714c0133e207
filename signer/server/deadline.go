package server

import (
	"net/http"
	"time"

	"chancery/signer/api"
)

// timeout returns how long the work for a request may take: what its header says, and
// most at the longest.
func timeout(h http.Header, most time.Duration) (time.Duration, error) {
	said := h.Values(api.RequestTimeout)
	switch len(said) {
	case 0:
		return most, nil
	case 1:
	default:
		return 0, api.Errorf(api.CodeMalformed, "more than one %s", api.RequestTimeout)
	}
	d, err := api.ParseTimeout(said[0])
	if err != nil {
		return 0, api.Errorf(api.CodeMalformed, "%s: %v", api.RequestTimeout, err)
	}
	return min(d, most), nil
}
