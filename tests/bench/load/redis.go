package main

import (
	"bufio"
	"fmt"
	"net"
	"time"
)

// pipelined sends commands to Redis, as they are, over one connection, so many before their answers are read: what the
// server can do at most, with a client that costs next to nothing. Requests[0] is sent once before, the rest in turn.
func pipelined(load *Load) (*Outcome, error) {
	connection, err := net.Dial("tcp", load.Target)
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	answers := bufio.NewReaderSize(connection, 1<<20)
	for _, request := range load.Requests[:len(load.Requests)-1] {
		if err := exchange(connection, answers, request, 1); err != nil {
			return nil, err
		}
	}
	var many []byte
	for range load.Pipeline {
		many = append(many, load.Requests[len(load.Requests)-1]...)
	}
	before, started := cpuSeconds(), time.Now()
	count := 0
	for time.Since(started).Seconds() < load.Seconds {
		if err := exchange(connection, answers, many, load.Pipeline); err != nil {
			return nil, err
		}
		count += load.Pipeline
	}
	return &Outcome{Calls: count, Seconds: time.Since(started).Seconds(), CPUSeconds: cpuSeconds() - before}, nil
}

// exchange sends so many commands and reads as many answers of one line each.
func exchange(connection net.Conn, answers *bufio.Reader, commands []byte, count int) error {
	if _, err := connection.Write(commands); err != nil {
		return err
	}
	for range count {
		line, err := answers.ReadString('\n')
		if err != nil {
			return err
		}
		if line[0] == '-' {
			return fmt.Errorf("redis answered %s", line)
		}
	}
	return nil
}
