package server

import (
	"net/http"

	"chancery/signer/api"
)

func (g *guarded) nodes(r *request) (int, any, error) {
	reply, err := g.Service.NodeList(r.Context(), r.who)
	return http.StatusOK, reply, err
}

func (g *guarded) nodeForget(r *request) (int, any, error) {
	var req api.ForgetRequest
	if err := r.decode(&req, api.DefaultLimits); err != nil {
		return 0, nil, &decodeError{err}
	}
	reply, err := g.Service.ForgetNode(r.Context(), r.who, r.PathValue("name"), req)
	return http.StatusOK, reply, err
}
