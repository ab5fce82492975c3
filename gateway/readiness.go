package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"net/http"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
)

const (
	livenessPath  = "/healthz"
	readinessPath = "/readyz"

	probeTimeout       = time.Second
	probeRememberedFor = 500 * time.Millisecond // any number of probers cost the services two calls a second
)

func isProbe(path string) bool { return path == livenessPath || path == readinessPath }

// readiness knows which services take calls, by their own health service.
type readiness struct {
	services map[string]grpc_health_v1.HealthClient
	log      *slog.Logger
	now      func() time.Time

	mutex    sync.Mutex // held while probing, so that those who come at once share one probe
	probedAt time.Time
	notReady map[string]string
	draining bool
}

// readinessAnswer is the body of /readyz: each service that is not ready, and what it, or the attempt to ask it, said.
type readinessAnswer struct {
	Ready    bool              `json:"ready"`
	NotReady map[string]string `json:"notReady"`
}

func newReadiness(
	connections map[string]*grpc.ClientConn, log *slog.Logger, now func() time.Time,
) *readiness {
	clients := map[string]grpc_health_v1.HealthClient{}
	for name, connection := range connections {
		clients[name] = grpc_health_v1.NewHealthClient(connection)
	}
	return &readiness{services: clients, log: log, now: now}
}

// drain makes the gateway not ready, for good.
func (r *readiness) drain() {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.draining = true
}

// check answers what is not ready; nothing: all is.
func (r *readiness) check() map[string]string {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if r.draining {
		return map[string]string{"gateway": "DRAINING"}
	}
	if now := r.now(); r.notReady == nil || now.Sub(r.probedAt) >= probeRememberedFor {
		before := r.notReady
		r.notReady, r.probedAt = r.probe(), now
		if before == nil || !maps.Equal(before, r.notReady) {
			r.logChange()
		}
	}
	return r.notReady
}

func (r *readiness) logChange() {
	if len(r.notReady) == 0 {
		r.log.Info("ready")
		return
	}
	r.log.Warn("not_ready", "why", r.notReady)
}

func (r *readiness) probe() map[string]string {
	// Not the prober's context: others wait for this answer too.
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	var (
		probes   sync.WaitGroup
		mutex    sync.Mutex
		notReady = map[string]string{}
	)
	for name, client := range r.services {
		probes.Go(func() {
			if state := stateOf(ctx, client); state != grpc_health_v1.HealthCheckResponse_SERVING.String() {
				mutex.Lock()
				defer mutex.Unlock()
				notReady[name] = state
			}
		})
	}
	probes.Wait()
	return notReady
}

func stateOf(ctx context.Context, client grpc_health_v1.HealthClient) string {
	answer, err := client.Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		return "UNREACHABLE"
	}
	return answer.GetStatus().String()
}

func (r *readiness) serve(w http.ResponseWriter, _ *http.Request, _ map[string]string) {
	notReady := r.check()
	answer := readinessAnswer{Ready: len(notReady) == 0, NotReady: notReady}
	httpStatus := http.StatusOK
	if !answer.Ready {
		httpStatus = http.StatusServiceUnavailable
	}
	body, _ := json.Marshal(answer) // strings and a bool: cannot fail
	writeJSON(w, httpStatus, body)
}

// serveLiveness answers as long as the process does; it asks nobody, or a service's trouble would restart the gateway.
func serveLiveness(w http.ResponseWriter, _ *http.Request, _ map[string]string) {
	writeJSON(w, http.StatusOK, []byte(`{"alive":true}`))
}
