package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// startConfig is the payload of START, see FRAMES.md.
type startConfig struct {
	Argv          []string          `json:"argv"`
	Env           map[string]string `json:"env"`
	Bootstraps    []string          `json:"bootstraps"`
	Cwd           string            `json:"cwd"`
	UID           *uint32           `json:"uid"`
	GID           *uint32           `json:"gid"`
	MemoryMB      int               `json:"memory_mb"`
	MemoryCgroup  []string          `json:"memory_cgroup"`
	Tmp           string            `json:"tmp"`
	TmpMB         int64             `json:"tmp_mb"`
	ResponseLimit int64             `json:"response_limit"`
	WorkerSocket  string            `json:"worker_socket"` // a socket of the worker's; empty: none
	RuntimeAPI    string            `json:"runtime_api"`
	CheckPeerUID  bool              `json:"check_peer_uid"`
	ProcessLimit  uint64            `json:"process_limit"`
	Function      struct {
		Name    string `json:"name"`
		Version string `json:"version"`
		Handler string `json:"handler"`
	} `json:"function"`
	API      bool     `json:"api"`
	APILimit int64    `json:"api_limit"`
	APIEnv   []string `json:"api_env"`
}

func parseStart(payload []byte) (*startConfig, error) {
	cfg := &startConfig{RuntimeAPI: "127.0.0.1:0"}
	if err := json.Unmarshal(payload, cfg); err != nil {
		return nil, protocolErrorf("START is not what it should be: %v", err)
	}
	if len(cfg.Bootstraps) == 0 && (len(cfg.Argv) == 0 || cfg.Argv[0] == "") {
		return nil, protocolErrorf("START without argv")
	}
	if cfg.ResponseLimit <= 0 {
		return nil, protocolErrorf("START without response_limit")
	}
	return cfg, nil
}

// environment is the runtime's, with the address of its own Runtime API.
func (c *startConfig) environment(address string) []string {
	set := make(map[string]string, len(c.Env)+2)
	for name, value := range c.Env {
		set[name] = value
	}
	for _, name := range c.APIEnv {
		set[name] = "http://" + address
	}
	set["AWS_LAMBDA_RUNTIME_API"] = address
	list := make([]string, 0, len(set))
	for name, value := range set {
		list = append(list, name+"="+value)
	}
	return list
}

// command is what to execute: the first bootstrap that is there, before argv; or argv with its program resolved by the runtime's
// own PATH, as a shell would. The error is in AWS's words.
func (c *startConfig) command() ([]string, error) {
	if len(c.Bootstraps) > 0 {
		program, err := c.bootstrap()
		return append([]string{program}, c.Argv...), err
	}
	return c.resolve(), nil
}

func (c *startConfig) bootstrap() (string, error) {
	for _, path := range c.Bootstraps {
		info, err := os.Stat(path)
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		if info.Mode()&0o111 == 0 {
			return path, fmt.Errorf("fork/exec %s: permission denied", path)
		}
		return path, nil
	}
	return "", fmt.Errorf("Couldn't find valid bootstrap(s): [%s]", strings.Join(c.Bootstraps, " "))
}

func (c *startConfig) resolve() []string {
	argv := append([]string(nil), c.Argv...)
	if strings.Contains(argv[0], "/") {
		return argv
	}
	for _, dir := range filepath.SplitList(c.Env["PATH"]) {
		path := filepath.Join(dir, argv[0])
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			argv[0] = path
			break
		}
	}
	return argv
}

// attributes of the runtime's process but its files: a session of its own, its identity, and death with the relay.
func (c *startConfig) attributes() *syscall.SysProcAttr {
	sys := &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if c.UID != nil || c.GID != nil {
		sys.Credential = &syscall.Credential{Uid: uint32(os.Getuid()), Gid: uint32(os.Getgid())}
		if c.UID != nil {
			sys.Credential.Uid = *c.UID
		}
		if c.GID != nil {
			sys.Credential.Gid = *c.GID
		}
		// Who is not root cannot drop groups, and needs not: it keeps its own.
		sys.Credential.NoSetGroups = os.Geteuid() != 0
	}
	return sys
}

func (c *startConfig) runtimeUID() int {
	if c.UID != nil {
		return int(*c.UID)
	}
	return os.Geteuid()
}
