package main

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// measures are the gateway's Prometheus metrics. Labels hold route templates, never paths.
type measures struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

func newMeasures(readiness *readiness) *measures {
	made := &measures{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tollbook_http_requests_total",
			Help: "REST requests that this process answered, by route template and HTTP status.",
		}, []string{"method", "route", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "tollbook_http_request_seconds",
			Help: "How long REST requests took, by route template.",
			// The services' own buckets, so that the two can be laid over each other.
			Buckets: []float64{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10},
		}, []string{"method", "route"}),
	}
	ready := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "tollbook_ready",
		Help: "1 while every service behind the gateway takes calls.",
	}, func() float64 {
		if len(readiness.check()) == 0 {
			return 1
		}
		return 0
	})
	made.registry.MustRegister(
		made.requests, made.seconds, ready,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return made
}

func (m *measures) observe(method, route string, httpStatus int, took time.Duration) {
	method = knownMethod(method)
	m.requests.WithLabelValues(method, route, strconv.Itoa(httpStatus)).Inc()
	m.seconds.WithLabelValues(method, route).Observe(took.Seconds())
}

// knownMethod bounds what callers can make up as a method, and so as a label.
func knownMethod(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
		http.MethodConnect, http.MethodOptions, http.MethodTrace:
		return method
	default:
		return "other"
	}
}
