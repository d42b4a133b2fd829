// The scenario in Go.
//
//	client TARGET KEY_TARGET SCENARIO DATA_SOURCE
//
// prints one JSON object: what each step got.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"trackside.test/interop/api"
	"trackside.test/interop/keygenerator"
	"trackside.test/interop/opendata"
)

// Got is what a step got.
type Got map[string]any

// Client is one run of the scenario. The steps are methods, in the order in which run calls them.
type Client struct {
	ctx         context.Context
	writer      api.PacketWriterServiceClient
	reader      api.PacketReaderServiceClient
	connections api.ConnectionManagerServiceClient
	sessions    api.SessionManagementServiceClient
	formats     api.DataFormatManagerServiceClient
	keys        []keygenerator.UniqueKeyGeneratorServiceClient
	scenario    Scenario
	source      string
	sessionKey  string
	numbers     Numbers
}

func newClient(ctx context.Context, target, keyTarget string, scenario Scenario, source string) *Client {
	plain := grpc.WithTransportCredentials(insecure.NewCredentials())
	channel, keyChannel := must(grpc.NewClient(target, plain)), must(grpc.NewClient(keyTarget, plain))
	client := &Client{
		ctx:         ctx,
		writer:      api.NewPacketWriterServiceClient(channel),
		reader:      api.NewPacketReaderServiceClient(channel),
		connections: api.NewConnectionManagerServiceClient(channel),
		sessions:    api.NewSessionManagementServiceClient(channel),
		formats:     api.NewDataFormatManagerServiceClient(channel),
		scenario:    scenario,
		source:      source,
	}
	for _, each := range []*grpc.ClientConn{keyChannel, channel} {
		client.keys = append(client.keys, keygenerator.NewUniqueKeyGeneratorServiceClient(each))
	}
	client.numbers = Numbers{map[string]uint64{}, map[string]uint64{}, client.lookUpList, client.lookUpEvent}
	return client
}

func (c *Client) run() Got {
	result := Got{"keys": c.makeKeys(), "formats": c.defineFormats()}
	c.writeOneByOne(c.scenario.BeforeSession, "trackside-ack", "log")
	starts, stops := c.subscribe()
	result["created"] = c.createSession()
	started := must(starts.Recv())
	result["started"] = Got{"session_key": started.GetSessionKey(), "data_source": started.GetDataSource()}
	result["info_at_start"] = c.sessionInfo(c.sessionKey)
	result["updated"] = c.updateSession()
	result["info_updated"] = c.sessionInfo(c.sessionKey)
	result["sessions"] = c.listSessions()
	c.writeOneByOne(c.scenario.Unary)
	c.writeStream()
	result["refused"] = []Got{c.writeNothing(), c.writeRefusedStream()}
	result["echoed_connection"] = c.echoConnection()
	result["unknown"] = c.askForUnknown()
	result["read"] = c.readPastAndLive()
	result["essentials_without_session"] = c.readEssentialsWithoutSession()
	result["filtered"] = c.readFiltered()
	result["streams"] = c.waitForStreams()
	result["ended"] = []Got{c.endSession(), c.endSession()}
	stopped := must(stops.Recv())
	result["stopped"] = Got{"session_key": stopped.GetSessionKey(), "data_source": stopped.GetDataSource()}
	result["info_at_end"] = c.sessionInfo(c.sessionKey)
	return result
}

// -- keys and data formats --------------------------------------------------------------------------------------------

// makeKeys makes, of each kind, one at the key port and one at the main port.
func (c *Client) makeKeys() Got {
	texts, numbers := []string{}, []string{}
	for _, stub := range c.keys {
		request := &keygenerator.GenerateUniqueKeyRequest{Type: keygenerator.KeyType_KEY_TYPE_STRING}
		texts = append(texts, must(stub.GenerateUniqueKey(c.ctx, request)).GetStringKey())
	}
	for _, stub := range c.keys {
		request := &keygenerator.GenerateUniqueKeyRequest{Type: keygenerator.KeyType_KEY_TYPE_ULONG}
		numbers = append(numbers, fmt.Sprint(must(stub.GenerateUniqueKey(c.ctx, request)).GetUlongKey()))
	}
	return Got{"texts": texts, "numbers": numbers}
}

func (c *Client) defineFormats() Got {
	names, event := c.scenario.Parameters, c.scenario.Event
	turnedNames := slices.Clone(names)
	slices.Reverse(turnedNames)
	number, turned := c.numberOfList(names), c.numberOfList(turnedNames)
	eventNumber := c.numberOfEvent(event)
	c.numbers.ofList[listKey(names)], c.numbers.ofList[listKey(turnedNames)] = number, turned
	c.numbers.ofEvent[event] = eventNumber
	unknown := unsigned(c.scenario.UnknownFormat)
	return Got{
		"parameters": []string{fmt.Sprint(number), fmt.Sprint(turned), fmt.Sprint(c.numberOfList(names))},
		"event":      []string{fmt.Sprint(eventNumber), fmt.Sprint(c.numberOfEvent(event))},
		"names":      [][]string{c.lookUpList(number), c.lookUpList(turned)},
		"event_name": c.lookUpEvent(eventNumber),
		"unknown":    []any{c.lookUpList(unknown), c.lookUpEvent(unknown)},
	}
}

func (c *Client) numberOfList(names []string) uint64 {
	request := &api.GetParameterDataFormatIdRequest{DataSource: c.source, Parameters: names}
	return must(c.formats.GetParameterDataFormatId(c.ctx, request)).GetDataFormatIdentifier()
}

func (c *Client) numberOfEvent(name string) uint64 {
	request := &api.GetEventDataFormatIdRequest{DataSource: c.source, Event: name}
	return must(c.formats.GetEventDataFormatId(c.ctx, request)).GetDataFormatIdentifier()
}

func (c *Client) lookUpList(number uint64) []string {
	request := &api.GetParametersListRequest{DataSource: c.source, DataFormatIdentifier: number}
	return listed(must(c.formats.GetParametersList(c.ctx, request)).GetParameters())
}

func (c *Client) lookUpEvent(number uint64) string {
	request := &api.GetEventRequest{DataSource: c.source, DataFormatIdentifier: number}
	return must(c.formats.GetEvent(c.ctx, request)).GetEvent()
}

// -- sessions ---------------------------------------------------------------------------------------------------------

type (
	starts = grpc.ServerStreamingClient[api.GetSessionStartNotificationResponse]
	stops  = grpc.ServerStreamingClient[api.GetSessionStopNotificationResponse]
)

// subscribe opens both notifications: with its headers a call says that it misses nothing from then on.
func (c *Client) subscribe() (starts, stops) {
	start := &api.GetSessionStartNotificationRequest{DataSource: c.source}
	stop := &api.GetSessionStopNotificationRequest{DataSource: c.source}
	starts := must(c.sessions.GetSessionStartNotification(c.ctx, start))
	stops := must(c.sessions.GetSessionStopNotification(c.ctx, stop))
	must(starts.Header())
	must(stops.Header())
	return starts, stops
}

func (c *Client) createSession() Got {
	wanted := c.scenario.Session
	reply := must(c.sessions.CreateSession(c.ctx, &api.CreateSessionRequest{
		DataSource:          c.source,
		Type:                wanted.Type,
		Version:             wanted.Version,
		Identifier:          wanted.Identifier,
		UtcOffset:           &durationpb.Duration{Seconds: signed(wanted.UtcOffset.Seconds), Nanos: wanted.UtcOffset.Nanos},
		CreationTime:        timestamp(wanted.CreationTime),
		Details:             wanted.Details,
		AssociateSessionKey: wanted.Associates,
	}))
	c.sessionKey = reply.GetSessionKey()
	return Got{
		"success":     reply.GetSuccess(),
		"session_key": reply.GetSessionKey(),
		"data_source": reply.GetNewSession().GetDataSource(),
		"offsets":     describeOffsets(reply.GetNewSession().GetTopicPartitionOffsets()),
		"identifier":  reply.GetNewSession().GetSessionInfo().GetIdentifier(),
	}
}

// updateSession does so by an info packet, then by calls; the answers to these say that the packet has been taken, too.
func (c *Client) updateSession() []bool {
	info := &opendata.SessionInfoPacket{DataSource: c.source, Details: c.scenario.InfoPacket}
	packet := &opendata.Packet{Type: "SessionInfo", SessionKey: c.sessionKey, Content: must(proto.Marshal(info))}
	must(c.writer.WriteInfoPacket(c.ctx, &api.WriteInfoPacketRequest{
		Message: packet,
		Type:    api.InfoType_INFO_TYPE_SESSION_INFO,
	}))
	update := c.scenario.Update
	rename := &api.UpdateSessionIdentifierRequest{SessionKey: c.sessionKey, Identifier: update.Identifier}
	details := &api.UpdateSessionDetailsRequest{SessionKey: c.sessionKey, Details: update.Details}
	join := &api.AddAssociateSessionRequest{SessionKey: c.sessionKey, AssociateSessionKey: update.Associate}
	return []bool{
		must(c.sessions.UpdateSessionIdentifier(c.ctx, rename)).GetSuccess(),
		must(c.sessions.UpdateSessionDetails(c.ctx, details)).GetSuccess(),
		must(c.sessions.AddAssociateSession(c.ctx, join)).GetSuccess(),
	}
}

// sessionInfo leaves out the streams, which appear in their own time.
func (c *Client) sessionInfo(key string) Got {
	info := must(c.sessions.GetSessionInfo(c.ctx, &api.GetSessionInfoRequest{SessionKey: key}))
	return Got{
		"success":           info.GetSuccess(),
		"data_source":       info.GetDataSource(),
		"identifier":        info.GetIdentifier(),
		"type":              info.GetType(),
		"version":           info.GetVersion(),
		"associates":        listed(info.GetAssociateSessionKeys()),
		"is_complete":       info.GetIsComplete(),
		"offsets":           describeOffsets(info.GetTopicPartitionOffsets()),
		"main_offset":       fmt.Sprint(info.GetMainOffset()),
		"essentials_offset": fmt.Sprint(info.GetEssentialsOffset()),
		"details":           info.GetDetails(),
		"utc_offset":        describeTime(info.UtcOffset),
		"creation_time":     describeTime(info.CreationTime),
		"termination_time":  describeTime(info.TerminationTime),
	}
}

func (c *Client) listSessions() []string {
	request := &api.GetCurrentSessionsRequest{DataSource: c.source}
	return must(c.sessions.GetCurrentSessions(c.ctx, request)).GetSessionKeys()
}

// waitForStreams asks for the named streams again and again until all are known.
func (c *Client) waitForStreams() []string {
	request := &api.GetSessionInfoRequest{SessionKey: c.sessionKey}
	var streams []string
	for range c.scenario.CallSeconds * 100 {
		streams = must(c.sessions.GetSessionInfo(c.ctx, request)).GetStreams()
		if len(streams) >= c.scenario.NamedStreams {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	slices.Sort(streams)
	return streams
}

func (c *Client) endSession() Got {
	end := timestamp(c.scenario.Session.TerminationTime)
	request := &api.EndSessionRequest{SessionKey: c.sessionKey, TerminationTime: end}
	reply := must(c.sessions.EndSession(c.ctx, request))
	return Got{
		"success":     reply.GetSuccess(),
		"data_source": reply.GetEndSession().GetDataSource(),
		"offsets":     describeOffsets(reply.GetEndSession().GetTopicPartitionOffsets()),
	}
}

// -- writing ----------------------------------------------------------------------------------------------------------

func (c *Client) detail(name string) *api.DataPacketDetails {
	described := c.scenario.Packets[name]
	detail := &api.DataPacketDetails{
		Message:    encode(described, &c.numbers),
		DataSource: c.source,
		Stream:     described.Stream,
	}
	if described.InSession {
		detail.SessionKey = c.sessionKey
	}
	return detail
}

func (c *Client) message(names []string) *api.WriteDataPacketsRequest {
	request := &api.WriteDataPacketsRequest{}
	for _, name := range names {
		request.Details = append(request.Details, c.detail(name))
	}
	return request
}

func (c *Client) writeOneByOne(names []string, pairs ...string) {
	for _, name := range names {
		ctx := metadata.AppendToOutgoingContext(c.ctx, pairs...)
		must(c.writer.WriteDataPacket(ctx, &api.WriteDataPacketRequest{Detail: c.detail(name)}))
	}
}

// writeStream half-closes after the last message and awaits the reply.
func (c *Client) writeStream() {
	call := must(c.writer.WriteDataPackets(c.ctx))
	for _, names := range c.scenario.Stream {
		check(call.Send(c.message(names)))
	}
	must(call.CloseAndRecv())
}

func (c *Client) writeNothing() Got {
	var trailer metadata.MD
	_, err := c.writer.WriteDataPacket(c.ctx, &api.WriteDataPacketRequest{}, grpc.Trailer(&trailer))
	return describeError(err, trailer)
}

// writeRefusedStream gets its call ended at the bad message, before the client has ended its side.
func (c *Client) writeRefusedStream() Got {
	wanted := c.scenario.RefusedStream
	call := must(c.writer.WriteDataPackets(c.ctx))
	for _, names := range wanted.Messages {
		check(call.Send(c.message(names)))
	}
	bad := c.message([]string{wanted.Packet})
	bad.Details[0].DataSource = wanted.DataSource
	check(call.Send(bad))
	err := call.RecvMsg(&api.WriteDataPacketsResponse{})
	return describeError(err, call.Trailer())
}

// -- reading ----------------------------------------------------------------------------------------------------------

func (c *Client) connect(details *api.ConnectionDetails) *api.Connection {
	details.DataSource = c.source
	request := &api.NewConnectionRequest{Details: details}
	return must(c.connections.NewConnection(c.ctx, request)).GetConnection()
}

func (c *Client) close(connection *api.Connection) bool {
	request := &api.CloseConnectionRequest{Connection: connection}
	return must(c.connections.CloseConnection(c.ctx, request)).GetSuccess()
}

func (c *Client) echoConnection() Got {
	wanted := c.scenario.EchoedConnection
	asked := &api.ConnectionDetails{
		SessionKey:        c.sessionKey,
		Streams:           wanted.Streams,
		MainOffset:        signed(wanted.MainOffset),
		EssentialsOffset:  signed(wanted.EssentialsOffset),
		ExcludeMainStream: wanted.ExcludeMainStream,
		ConsumerGroup:     wanted.ConsumerGroup,
	}
	for _, offset := range wanted.StreamOffsets {
		asked.StreamOffsets = append(asked.StreamOffsets, signed(offset))
	}
	connection := c.connect(asked)
	request := &api.GetConnectionRequest{Connection: connection}
	details := must(c.connections.GetConnection(c.ctx, request)).GetDetails()
	offsets := []string{}
	for _, offset := range details.GetStreamOffsets() {
		offsets = append(offsets, fmt.Sprint(offset))
	}
	return Got{
		"data_source":         details.GetDataSource(),
		"session_key":         details.GetSessionKey(),
		"streams":             details.GetStreams(),
		"stream_offsets":      offsets,
		"main_offset":         fmt.Sprint(details.GetMainOffset()),
		"essentials_offset":   fmt.Sprint(details.GetEssentialsOffset()),
		"exclude_main_stream": details.GetExcludeMainStream(),
		"consumer_group":      details.GetConsumerGroup(),
		"closed":              []bool{c.close(connection), c.close(connection)},
	}
}

// askForUnknown gets answers with status OK that say no.
func (c *Client) askForUnknown() Got {
	known, reads := []bool{}, []Got{}
	for _, number := range c.scenario.UnknownConnections {
		connection := &api.Connection{Id: signed(number)}
		answer := must(c.connections.GetConnection(c.ctx, &api.GetConnectionRequest{Connection: connection}))
		known = append(known, answer.Details != nil)
		call := must(c.reader.ReadPackets(c.ctx, &api.ReadPacketsRequest{Connection: connection}))
		reads = append(reads, newRead(&c.numbers, call).rest())
	}
	ended := must(c.sessions.EndSession(c.ctx, &api.EndSessionRequest{SessionKey: "no such session"}))
	return Got{
		"connections": known,
		"reads":       reads,
		"session":     c.sessionInfo("no such session")["success"],
		"ended":       ended.GetSuccess(),
	}
}

// readPastAndLive opens two reads of one connection at once; packets are written meanwhile; closing it ends both.
func (c *Client) readPastAndLive() Got {
	connection := c.connect(&api.ConnectionDetails{SessionKey: c.sessionKey})
	packetsRequest := &api.ReadPacketsRequest{Connection: connection}
	packets := newRead(&c.numbers, must(c.reader.ReadPackets(c.ctx, packetsRequest)))
	essentialsRequest := &api.ReadEssentialsRequest{Connection: connection}
	essentials := newRead(&c.numbers, must(c.reader.ReadEssentials(c.ctx, essentialsRequest)))
	past := packets.take(c.scenario.Counts.Past)
	c.writeOneByOne(c.scenario.Live)
	return Got{
		"past":        past,
		"live":        packets.take(len(c.scenario.Live)),
		"essentials":  essentials.take(c.scenario.Counts.Essentials),
		"closed":      c.close(connection),
		"after_close": []Got{packets.rest(), essentials.rest()},
	}
}

// readEssentialsWithoutSession ends by itself.
func (c *Client) readEssentialsWithoutSession() Got {
	request := &api.ReadEssentialsRequest{Connection: c.connect(&api.ConnectionDetails{})}
	return newRead(&c.numbers, must(c.reader.ReadEssentials(c.ctx, request))).rest()
}

func (c *Client) readFiltered() Got {
	wanted := c.scenario.Filter
	connection := c.connect(&api.ConnectionDetails{
		SessionKey:        c.sessionKey,
		Streams:           wanted.Streams,
		ExcludeMainStream: wanted.ExcludeMainStream,
	})
	request := &api.DataPacketRequest{
		Connection:        connection,
		IncludeParameters: wanted.IncludeParameters,
		ExcludeParameters: wanted.ExcludeParameters,
		IncludeEvents:     wanted.IncludeEvents,
		ExcludeEvents:     wanted.ExcludeEvents,
		IncludeMarkers:    wanted.IncludeMarkers,
	}
	read := newRead(&c.numbers, must(c.reader.ReadDataPackets(c.ctx, &api.ReadDataPacketsRequest{Request: request})))
	found := read.take(c.scenario.Counts.Filtered)
	return Got{"found": found, "closed": c.close(connection), "after_close": read.rest()}
}

// Reply is what the three kinds of reads answer with.
type Reply interface {
	GetResponse() []*api.PacketResponse
}

// Read is an open read: packets in the scenario's words by their streams.
type Read struct {
	numbers *Numbers
	recv    func() (Reply, error)
	pending []*api.PacketResponse
	err     error
}

func newRead[R any, P interface {
	*R
	Reply
}](numbers *Numbers, call grpc.ServerStreamingClient[R]) *Read {
	return &Read{numbers: numbers, recv: func() (Reply, error) {
		reply, err := call.Recv()
		return P(reply), err
	}}
}

// next is the next packet, or nil when the server has ended the call.
func (r *Read) next() *api.PacketResponse {
	for len(r.pending) == 0 {
		var reply Reply
		if reply, r.err = r.recv(); r.err != nil {
			return nil
		}
		r.pending = reply.GetResponse()
	}
	response := r.pending[0]
	r.pending = r.pending[1:]
	return response
}

type byStream map[string][]Described

// add keeps the order within a stream; there is no other.
func (found byStream) add(response *api.PacketResponse, numbers *Numbers) {
	found[response.GetStream()] = append(found[response.GetStream()], describe(response, numbers))
}

func (r *Read) take(count int) byStream {
	found := byStream{}
	for range count {
		response := r.next()
		if response == nil {
			check(r.err)
		}
		found.add(response, r.numbers)
	}
	return found
}

// rest is what still comes until the server ends the call, and with which code.
func (r *Read) rest() Got {
	found := byStream{}
	for response := r.next(); response != nil; response = r.next() {
		found.add(response, r.numbers)
	}
	code := codes.OK
	if !errors.Is(r.err, io.EOF) {
		code = status.Code(r.err)
	}
	return Got{"packets": found, "code": int(code)}
}

// -- small things -----------------------------------------------------------------------------------------------------

func timestamp(described Time) *timestamppb.Timestamp {
	return &timestamppb.Timestamp{Seconds: signed(described.Seconds), Nanos: described.Nanos}
}

// describeTime tells a Timestamp or Duration; null where it is missing.
func describeTime[T any, P interface {
	*T
	GetSeconds() int64
	GetNanos() int32
}](found P) *Time {
	if found == nil {
		return nil
	}
	return &Time{Seconds: fmt.Sprint(found.GetSeconds()), Nanos: found.GetNanos()}
}

func describeOffsets(offsets map[string]int64) map[string]string {
	told := map[string]string{}
	for topic, offset := range offsets {
		told[topic] = fmt.Sprint(offset)
	}
	return told
}

func describeError(err error, trailer metadata.MD) Got {
	told := Got{"code": int(status.Code(err)), "message": status.Convert(err).Message(), "accepted": nil}
	if accepted := trailer.Get("trackside-accepted"); len(accepted) > 0 {
		told["accepted"] = accepted[0]
	}
	return told
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func must[T any](found T, err error) T {
	check(err)
	return found
}

func main() {
	arguments := os.Args[1:]
	var scenario Scenario
	check(json.Unmarshal(must(os.ReadFile(arguments[2])), &scenario))
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(scenario.CallSeconds)*time.Second)
	defer cancel()
	client := newClient(ctx, arguments[0], arguments[1], scenario, arguments[3])
	check(json.NewEncoder(os.Stdout).Encode(client.run()))
}
