package main

// Scenario is the file that all languages share, as far as a client needs it.
type Scenario struct {
	CallSeconds   int                  `json:"call_seconds"`
	Packets       map[string]Described `json:"packets"`
	BeforeSession []string             `json:"before_session"`
	Session       struct {
		Type            string            `json:"type"`
		Version         uint32            `json:"version"`
		Identifier      string            `json:"identifier"`
		UtcOffset       Time              `json:"utc_offset"`
		CreationTime    Time              `json:"creation_time"`
		TerminationTime Time              `json:"termination_time"`
		Details         map[string]string `json:"details"`
		Associates      []string          `json:"associates"`
	} `json:"session"`
	InfoPacket map[string]string `json:"info_packet"`
	Update     struct {
		Identifier string            `json:"identifier"`
		Details    map[string]string `json:"details"`
		Associate  string            `json:"associate"`
	} `json:"update"`
	Parameters    []string   `json:"parameters"`
	Event         string     `json:"event"`
	UnknownFormat string     `json:"unknown_format"`
	Unary         []string   `json:"unary"`
	Stream        [][]string `json:"stream"`
	RefusedStream struct {
		Messages   [][]string `json:"messages"`
		DataSource string     `json:"data_source"`
		Packet     string     `json:"packet"`
	} `json:"refused_stream"`
	Live             []string `json:"live"`
	EchoedConnection struct {
		Streams           []string `json:"streams"`
		StreamOffsets     []string `json:"stream_offsets"`
		MainOffset        string   `json:"main_offset"`
		EssentialsOffset  string   `json:"essentials_offset"`
		ExcludeMainStream bool     `json:"exclude_main_stream"`
		ConsumerGroup     string   `json:"consumer_group"`
	} `json:"echoed_connection"`
	UnknownConnections []string `json:"unknown_connections"`
	Filter             struct {
		Streams           []string `json:"streams"`
		ExcludeMainStream bool     `json:"exclude_main_stream"`
		IncludeParameters []string `json:"include_parameters"`
		ExcludeParameters []string `json:"exclude_parameters"`
		IncludeEvents     []string `json:"include_events"`
		ExcludeEvents     []string `json:"exclude_events"`
		IncludeMarkers    bool     `json:"include_markers"`
	} `json:"filter"`
	NamedStreams int `json:"named_streams"`
	Counts       struct {
		Past       int `json:"past"`
		Essentials int `json:"essentials"`
		Filtered   int `json:"filtered"`
	} `json:"counts"`
}

// Time is a Timestamp or a Duration.
type Time struct {
	Seconds string `json:"seconds"`
	Nanos   int32  `json:"nanos"`
}
