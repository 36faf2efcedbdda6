/* A PKCS#11 module that passes every call on to SoftHSM2 and, when told, does what bad modules do.
 *
 * It is told by the file that FAULT_FILE names, which is looked at before every call: lines of
 *
 *     FUNCTION SKIP TIMES ACTION [VALUE]
 *
 * such as `C_Sign 3 1 return 0x30`: of the calls of a function from now on, the first SKIP are left alone, and with the next TIMES
 * something is done (0: with all). The counting begins anew when another file is put in the place of the first.
 *
 * return RV     it is not called, and returns RV
 * after RV      it is called, and returns RV all the same
 * delay MS      it is called after that time
 * block         it does not return before the file changes
 * crash         the process dies of SIGSEGV
 * exit          the process ends
 * logout        the login is forgotten before it is called
 * close         all sessions are closed before it is called
 * hide          C_FindObjects finds nothing
 * other         C_SignInit is called with the key of another call before
 * corrupt       C_Sign returns another signature
 *
 * All functions of PKCS#11 take up to nine words, and return one: so one kind of wrapper does for all of them. */

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef unsigned long word;
typedef word (*function)(word, word, word, word, word, word, word, word, word);

/* The functions of PKCS#11 2.40 in the order of CK_FUNCTION_LIST. */
#define FUNCTIONS(F) \
    F(Initialize) F(Finalize) F(GetInfo) F(GetFunctionList) F(GetSlotList) F(GetSlotInfo) F(GetTokenInfo) \
    F(GetMechanismList) F(GetMechanismInfo) F(InitToken) F(InitPIN) F(SetPIN) F(OpenSession) F(CloseSession) \
    F(CloseAllSessions) F(GetSessionInfo) F(GetOperationState) F(SetOperationState) F(Login) F(Logout) \
    F(CreateObject) F(CopyObject) F(DestroyObject) F(GetObjectSize) F(GetAttributeValue) F(SetAttributeValue) \
    F(FindObjectsInit) F(FindObjects) F(FindObjectsFinal) F(EncryptInit) F(Encrypt) F(EncryptUpdate) \
    F(EncryptFinal) F(DecryptInit) F(Decrypt) F(DecryptUpdate) F(DecryptFinal) F(DigestInit) F(Digest) \
    F(DigestUpdate) F(DigestKey) F(DigestFinal) F(SignInit) F(Sign) F(SignUpdate) F(SignFinal) \
    F(SignRecoverInit) F(SignRecover) F(VerifyInit) F(Verify) F(VerifyUpdate) F(VerifyFinal) \
    F(VerifyRecoverInit) F(VerifyRecover) F(DigestEncryptUpdate) F(DecryptDigestUpdate) F(SignEncryptUpdate) \
    F(DecryptVerifyUpdate) F(GenerateKey) F(GenerateKeyPair) F(WrapKey) F(UnwrapKey) F(DeriveKey) \
    F(SeedRandom) F(GenerateRandom) F(GetFunctionStatus) F(CancelFunction) F(WaitForSlotEvent)

#define NUMBER(name) at_##name,
enum { FUNCTIONS(NUMBER) COUNT };
#define NAME(name) "C_" #name,
static const char *const names[] = {FUNCTIONS(NAME)};

struct list {
    unsigned char version[2];
    function functions[COUNT];
};

struct order {
    int function;
    long skip, times;
    char action[16];
    word value;
    long seen;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct list *real, ours;
static struct order orders[32];
static int order_count;
static struct stat read_last;
static long readings;
static word keys[2];

/* Reads the file again if it is another one. Called with the lock held. */
static void read_orders(void) {
    const char *path = getenv("FAULT_FILE");
    struct stat now;
    if (!path || stat(path, &now) != 0) {
        order_count = 0;
        memset(&read_last, 0, sizeof read_last);
        return;
    }
    if (now.st_ino == read_last.st_ino && now.st_mtim.tv_nsec == read_last.st_mtim.tv_nsec &&
        now.st_mtim.tv_sec == read_last.st_mtim.tv_sec)
        return;
    read_last = now;
    readings++;
    order_count = 0;
    FILE *file = fopen(path, "r");
    char line[256], name[64], value[32];
    while (file && order_count < 32 && fgets(line, sizeof line, file)) {
        struct order *order = &orders[order_count];
        memset(order, 0, sizeof *order);
        value[0] = 0;
        if (sscanf(line, "%63s %ld %ld %15s %31s", name, &order->skip, &order->times, order->action, value) < 4)
            continue;
        order->value = strtoul(value, NULL, 0);
        for (order->function = 0; order->function < COUNT; order->function++)
            if (strcmp(name, names[order->function]) == 0)
                break;
        order_count += order->function < COUNT;
    }
    if (file)
        fclose(file);
}

/* Returns what is to be done with a call, if anything is. */
static int find_order(int number, struct order *found) {
    int is_one = 0;
    pthread_mutex_lock(&lock);
    read_orders();
    for (int i = 0; i < order_count && !is_one; i++) {
        struct order *order = &orders[i];
        if (order->function != number)
            continue;
        long seen = order->seen++;
        is_one = seen >= order->skip && (order->times == 0 || seen < order->skip + order->times);
        if (is_one)
            *found = *order;
    }
    pthread_mutex_unlock(&lock);
    return is_one;
}

/* Waits until there are other orders. */
static void wait_for_others(void) {
    long mine, now;
    pthread_mutex_lock(&lock);
    mine = now = readings;
    pthread_mutex_unlock(&lock);
    while (mine == now) {
        usleep(20000);
        pthread_mutex_lock(&lock);
        read_orders();
        now = readings;
        pthread_mutex_unlock(&lock);
    }
}

static word call(int number, word a, word b, word c, word d, word e, word f, word g, word h, word i) {
    struct order order;
    function pass_on = real->functions[number];
    int told = find_order(number, &order);
#define IS(name) (told && strcmp(order.action, name) == 0)
    if (IS("return"))
        return order.value;
    if (IS("delay"))
        usleep(order.value * 1000);
    if (IS("block"))
        wait_for_others();
    if (IS("crash"))
        *(volatile int *)8 = 0;
    if (IS("exit"))
        _exit(1);
    if (IS("logout"))
        real->functions[at_Logout](a, 0, 0, 0, 0, 0, 0, 0, 0);
    if (IS("close")) {
        word info[4];
        if (real->functions[at_GetSessionInfo](a, (word)info, 0, 0, 0, 0, 0, 0, 0) == 0)
            real->functions[at_CloseAllSessions](info[0], 0, 0, 0, 0, 0, 0, 0, 0);
    }
    if (number == at_SignInit) {
        if (IS("other"))
            c = keys[0] == c ? keys[1] : keys[0];
        else if (keys[0] != c) {
            keys[1] = keys[0];
            keys[0] = c;
        }
    }
    word returned = pass_on(a, b, c, d, e, f, g, h, i);
    if (IS("hide") && number == at_FindObjects)
        *(word *)d = 0;
    if (IS("corrupt") && number == at_Sign && d)
        ((unsigned char *)d)[*(word *)e / 2] ^= 1;
    return IS("after") ? order.value : returned;
}

#define WRAPPER(name) \
    static word our_##name(word a, word b, word c, word d, word e, word f, word g, word h, word i) { \
        return call(at_##name, a, b, c, d, e, f, g, h, i); \
    }
FUNCTIONS(WRAPPER)

#define ENTRY(name) our_##name,
static const function wrappers[] = {FUNCTIONS(ENTRY)};

word C_GetFunctionList(struct list **list) {
    if (!real) {
        void *module = dlopen(MODULE, RTLD_NOW | RTLD_LOCAL);
        word (*get)(struct list **) = module ? (word(*)(struct list **))dlsym(module, "C_GetFunctionList") : NULL;
        if (!get || get(&real) != 0)
            return 5; /* CKR_GENERAL_ERROR */
        memcpy(ours.version, real->version, sizeof ours.version);
        memcpy(ours.functions, wrappers, sizeof wrappers);
    }
    *list = &ours;
    return 0;
}
