package main

import (
	"context"
	"net/http"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
)

// The methods that a REST path can be bound to.
var methods = []string{http.MethodDelete, http.MethodGet, http.MethodPatch, http.MethodPost, http.MethodPut}

type trialKey struct{}

// trial says whether a request that only asks for a route found one.
type trial struct{ found bool }

func trialOf(ctx context.Context) (*trial, bool) {
	current, ok := ctx.Value(trialKey{}).(*trial)
	return current, ok
}

// allowed is the value of Allow for the request's path. The mux keeps its routes to itself, so each method is tried on
// it with a request that ends where its handler would begin.
func allowed(mux *runtime.ServeMux, r *http.Request) string {
	var found []string
	for _, method := range methods {
		current := &trial{}
		asking := r.WithContext(context.WithValue(r.Context(), trialKey{}, current))
		asking.Method, asking.Body = method, http.NoBody
		mux.ServeHTTP(unheard{}, asking)
		if current.found {
			found = append(found, method)
		}
	}
	return strings.Join(found, ", ")
}

// endTrials keeps a request that only asks for a route from its handler.
func endTrials(next runtime.HandlerFunc) runtime.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request, parameters map[string]string) {
		if current, ok := trialOf(r.Context()); ok {
			current.found = true
			return
		}
		next(w, r, parameters)
	}
}

// unheard is where the answer to a trial goes.
type unheard struct{}

func (unheard) Header() http.Header              { return http.Header{} }
func (unheard) Write(answer []byte) (int, error) { return len(answer), nil }
func (unheard) WriteHeader(int)                  {}
