package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	requestBytesMax   = 8 << 20
	requestIDBytesMax = 128 // as in the services, which would replace a longer one
	requestIDHeader   = "X-Request-Id"

	unmatchedRoute = "unmatched"
)

// exchange is what the handling of one request leaves for its log line, its metrics and its error.
type exchange struct {
	requestID        string
	route            string
	bodyLimitReached int64  // the limit that the body broke; 0: none
	upstreamError    string // what the transport said of a call that no service refused
}

type exchangeKey struct{}

// exchangeOf answers the request's exchange; outside of a request, one that nobody looks at.
func exchangeOf(ctx context.Context) *exchange {
	if found, ok := ctx.Value(exchangeKey{}).(*exchange); ok {
		return found
	}
	return &exchange{}
}

// edge is what happens around every request: its id, its limits, the headers of every answer, one log line, metrics.
func edge(next http.Handler, measures *measures, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		started := time.Now()
		current := &exchange{requestID: requestIDOf(r), route: unmatchedRoute}
		r = r.WithContext(context.WithValue(r.Context(), exchangeKey{}, current))
		r.Body = watchedBody{http.MaxBytesReader(w, r.Body, requestBytesMax), current}
		w.Header().Set(requestIDHeader, current.requestID)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		answer := &observedAnswer{ResponseWriter: w}
		defer func() {
			cause, begun := recover(), answer.written != 0
			if cause != nil && !begun {
				handleError(r.Context(), nil, nil, answer, r, status.Error(codes.Internal, "panic"))
			}
			took := time.Since(started)
			measures.observe(r.Method, current.route, answer.status(), took)
			logRequest(log, r, current, answer.status(), took)
			if cause == nil {
				return
			}
			log.Error("panic", "request_id", current.requestID, "cause", fmt.Sprint(cause), "stack", string(debug.Stack()))
			if begun { // cannot be taken back: it is broken off, so that nobody takes it for whole
				panic(http.ErrAbortHandler)
			}
		}()
		next.ServeHTTP(answer, r)
	})
}

// logRequest writes neither path nor query nor header nor body: they hold ids, keys and what customers do.
func logRequest(log *slog.Logger, r *http.Request, current *exchange, httpStatus int, took time.Duration) {
	level := slog.LevelInfo
	switch {
	case isProbe(current.route):
		level = slog.LevelDebug // several a second, and all the same; a change of readiness has a line of its own
	case httpStatus >= http.StatusInternalServerError:
		level = slog.LevelWarn
	}
	attributes := []slog.Attr{
		slog.String("method", knownMethod(r.Method)),
		slog.String("route", current.route),
		slog.Int("status", httpStatus),
		slog.Float64("duration_ms", float64(took.Microseconds())/1000),
		slog.String("request_id", current.requestID),
	}
	if current.upstreamError != "" {
		attributes = append(attributes, slog.String("upstream_error", current.upstreamError))
	}
	log.LogAttrs(r.Context(), level, "request", attributes...)
}

// requestIDOf takes the caller's id where it can travel as a header and as metadata, else makes one.
func requestIDOf(r *http.Request) string {
	sent := r.Header.Get(requestIDHeader)
	usable := 0 < len(sent) && len(sent) <= requestIDBytesMax
	for _, character := range []byte(sent) {
		usable = usable && ' ' <= character && character <= '~'
	}
	if usable {
		return sent
	}
	var made [16]byte
	_, _ = rand.Read(made[:]) // never fails
	return hex.EncodeToString(made[:])
}

// watchedBody notes that the body was too large: grpc-gateway keeps of that only words.
type watchedBody struct {
	io.ReadCloser
	exchange *exchange
}

func (b watchedBody) Read(buffer []byte) (int, error) {
	n, err := b.ReadCloser.Read(buffer)
	if limit, tooLarge := bodyLimitOf(err); tooLarge {
		b.exchange.bodyLimitReached = limit
	}
	return n, err
}

// observedAnswer remembers the status that was written.
type observedAnswer struct {
	http.ResponseWriter
	written int
}

func (a *observedAnswer) WriteHeader(httpStatus int) {
	if a.written == 0 {
		a.written = httpStatus
	}
	a.ResponseWriter.WriteHeader(httpStatus)
}

func (a *observedAnswer) Write(body []byte) (int, error) {
	if a.written == 0 {
		a.written = http.StatusOK
	}
	return a.ResponseWriter.Write(body)
}

// Unwrap lets http.ResponseController reach the connection, to flush for example.
func (a *observedAnswer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (a *observedAnswer) status() int {
	if a.written == 0 {
		return http.StatusOK // what net/http sends for a handler that writes nothing
	}
	return a.written
}
