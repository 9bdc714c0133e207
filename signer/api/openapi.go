package api

import (
	_ "embed"
	"slices"
)

//go:embed openapi.json
var openAPI []byte

// OpenAPI returns the description of the JSON side as an OpenAPI 3.1 document in
// JSON: every operation of the signing and the ops door and what the public door
// serves as JSON, their schemas, and every Code by its status. The extension
// x-chancery-doors says at which doors an operation is, x-chancery-max-body how
// many bytes its body may have.
func OpenAPI() []byte { return slices.Clone(openAPI) }
