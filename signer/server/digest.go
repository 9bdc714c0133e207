package server

import (
	"net/http"

	"chancery/signer/api"
)

func (g *guarded) signDigest(r *request) (int, any, error) {
	var req api.SignDigestRequest
	if err := r.decode(&req, api.DefaultLimits); err != nil {
		return 0, nil, &decodeError{err}
	}
	reply, err := g.Service.SignDigest(r.Context(), r.who, req)
	return http.StatusOK, reply, err
}
