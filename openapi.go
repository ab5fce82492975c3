// Package tollbook holds what the repository itself contributes to Go programs: go:embed reaches only below its own
// folder, and gen/ is generated code alone.
package tollbook

import _ "embed"

// OpenAPI is the REST interface's description, as committed.
//
//go:embed gen/openapi/tollbook.swagger.json
var OpenAPI []byte
