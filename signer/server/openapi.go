package server

import (
	"encoding/json"
	"net/http"

	"chancery/signer/api"
)

// openAPI answers with the description of the doors. Whoever has an identity may
// have it, by no rule, and it is not entered: it is the same for every daemon of
// a release, and tells nothing of this one.
func openAPI(*request) (int, any, error) {
	return http.StatusOK, json.RawMessage(api.OpenAPI()), nil
}
