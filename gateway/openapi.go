package main

import (
	"net/http"

	"tollbook.dev/tollbook"
)

func serveOpenAPI(w http.ResponseWriter, _ *http.Request, _ map[string]string) {
	writeJSON(w, http.StatusOK, tollbook.OpenAPI)
}
